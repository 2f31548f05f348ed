// What the parts of the simulated accelerator share: counters, memory accounting, errors.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Storage.h>

#include <atomic>
#include <cstdint>

namespace simulated {

inline const c10::Device kDevice{c10::DeviceType::MPS, 0};

// The order is the one of `COUNTERS` in __init__.py.
struct Counters {
  std::atomic<int64_t> synchronizations{0};
  std::atomic<int64_t> copies_to_device{0};
  std::atomic<int64_t> copies_from_device{0};
  std::atomic<int64_t> copies_on_device{0};
  std::atomic<int64_t> bytes_to_device{0};
  std::atomic<int64_t> bytes_from_device{0};
  std::atomic<int64_t> allocations{0};
  std::atomic<int64_t> frees{0};
  std::atomic<int64_t> operators{0};
};
Counters& counters();

// Memory in the sense of the device: what tensors hold, and what the allocator keeps.
struct Memory {
  std::atomic<int64_t> allocated{0};
  std::atomic<int64_t> peak_allocated{0};
  std::atomic<int64_t> reserved{0};
  std::atomic<int64_t> peak_reserved{0};
  std::atomic<int64_t> limit{0};  // of a device made small by a test; 0 for the host's memory
  std::atomic<double> fraction{0};  // of the device that the process may take; 0 for all
  std::atomic<int64_t> host{0};

  int64_t device_size() const {
    return limit > 0 ? limit.load() : host.load();
  }
};
Memory& memory();

// Raises for a block that no device has, before the host is asked for it.
void check_size(size_t bytes);

// Accounts for bytes, or raises the error that Metal's allocator raises.
void take(size_t bytes);
void give_back(size_t bytes);

// Host memory that a CPU kernel made, as device memory: no copy, but accounted for.
c10::DataPtr as_device_memory(c10::Storage made_on_cpu);

// The CPU generator inside a generator of the device; the default one for none.
at::Generator cpu_generator(const std::optional<at::Generator>& generator);

// Raises what Metal raises for a dtype that it lacks.
void check_dtype(at::ScalarType dtype);

// Events by their number.
uint32_t acquire_event(bool timed);
void release_event(uint32_t id);
void record_event(uint32_t id);
bool query_event(uint32_t id);
double elapsed_milliseconds(uint32_t start_id, uint32_t end_id);

} // namespace simulated
