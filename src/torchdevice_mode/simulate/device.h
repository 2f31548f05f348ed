// What the two halves of the simulated accelerator share: counters, memory accounting, errors.
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
  std::atomic<int64_t> limit{0};  // 0: the host's memory is the only limit
  std::atomic<int64_t> total{0};
};
Memory& memory();

// Accounts for bytes, or raises the error that Metal's allocator raises.
void take(size_t bytes);
void give_back(size_t bytes);

// Host memory that a CPU kernel made, as device memory: no copy, but accounted for.
c10::DataPtr as_device_memory(c10::Storage made_on_cpu);

// The CPU generator inside a generator of the device; the default one for none.
at::Generator cpu_generator(const std::optional<at::Generator>& generator);

// Raises what Metal raises for a dtype that it lacks.
void check_dtype(at::ScalarType dtype);

} // namespace simulated
