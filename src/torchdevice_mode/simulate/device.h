// What the parts of the simulated accelerator share: counters, memory accounting, errors.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Storage.h>

#include <atomic>
#include <cstdint>

// The device that this library simulates; the keys have the names that its type has.
#ifdef SIMULATE_CUDA
#define SIMULATED CUDA
#define SIMULATED_AUTOGRAD AutogradCUDA
#else
#define SIMULATED MPS
#define SIMULATED_AUTOGRAD AutogradMPS
#endif

namespace simulated {

#ifdef SIMULATE_CUDA
inline constexpr bool kIsCuda = true;
inline constexpr const char* kName = "CUDA";
inline constexpr auto kSparseKey = c10::DispatchKey::SparseCUDA;
#else
inline constexpr bool kIsCuda = false;
inline constexpr const char* kName = "MPS";
inline constexpr auto kSparseKey = c10::DispatchKey::SparseMPS;
#endif
inline constexpr auto kType = c10::DeviceType::SIMULATED;
inline constexpr auto kKey = c10::DispatchKey::SIMULATED;
inline const c10::Device kDevice{kType, 0};

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

// Accounts for bytes, or raises the error that the device's allocator raises.
void take(size_t bytes);
void give_back(size_t bytes);
void empty_cache();

// Whether the process is a fork of one that used the device.
bool in_bad_fork();

// Bytes as people read them: "1.50 MiB".
std::string readable(int64_t bytes);


// Host memory that a CPU kernel made, as device memory: no copy, but accounted for.
c10::DataPtr as_device_memory(c10::Storage made_on_cpu);

c10::DeviceAllocator& allocator();
const at::Generator& default_generator();
at::Generator make_generator();

// The CPU generator inside a generator of the device; the default one for none.
at::Generator cpu_generator(const std::optional<at::Generator>& generator);

// Events by their number.
uint32_t acquire_event(bool timed);
void release_event(uint32_t id);
void record_event(uint32_t id);
bool query_event(uint32_t id);
double elapsed_milliseconds(uint32_t start_id, uint32_t end_id);

// --- what differs between devices: mps.cpp and cuda.cpp ---------------------------------------

// Raises for a dtype that no tensor of the device can have.
void check_dtype(at::ScalarType dtype);

// Raises for a dtype that the device's kernels do not compute with.
void check_operand(at::ScalarType dtype);

// Raises where the device does not turn one dtype into another.
void check_conversion(at::ScalarType from, at::ScalarType to);

// Raises for a new tensor of more dimensions than the device has.
void check_dimensions(int64_t dimensions);

// Raises for a device that is not there.
void check_index(c10::Device device);

// Raises for a block that no device has, before the host is asked for it.
void check_size(size_t bytes);

// The version of macOS that the device claims to run on: 1501 for 15.1.
std::atomic<int>& macos();

// What a block takes in the device's memory, and what is held from the system for all blocks.
int64_t block_size(int64_t bytes);
int64_t held_for(int64_t allocated);

[[noreturn]] void raise_out_of_memory(int64_t wanted, int64_t allocated, int64_t limit);
[[noreturn]] void raise_in_forked_child();

// Raises for two events that the device would not compare.
void check_elapsed(bool timed, bool recorded, bool in_order, uint32_t start_id, uint32_t end_id);

} // namespace simulated
