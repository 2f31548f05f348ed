// The device's memory: host memory that is accounted for, and that runs out where it should.

#include "device.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <sstream>

#include <pthread.h>
#include <unistd.h>

namespace simulated {

Counters& counters() {
  static Counters* instance = new Counters();  // outlives every static that may use it
  return *instance;
}

Memory& memory() {
  static Memory* instance = [] {
    auto* fresh = new Memory();
    fresh->host = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
    return fresh;
  }();
  return *instance;
}

namespace {

bool in_forked_child = false;
const bool watching_forks =
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; }) == 0;

std::string readable(int64_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  std::ostringstream text;
  text.precision(unit == 0 ? 0 : 2);
  text << std::fixed << value << ' ' << units[unit];
  return text.str();
}

void raise(std::atomic<int64_t>& highest, int64_t value) {
  int64_t seen = highest.load();
  while (seen < value && !highest.compare_exchange_weak(seen, value)) {
  }
}

} // namespace

void check_size(size_t bytes) {
  const auto size = static_cast<int64_t>(bytes);
  TORCH_CHECK(size >= 0 && size < memory().host, "Invalid buffer size: ", readable(size));
}

void take(size_t bytes) {
  TORCH_CHECK(
      !in_forked_child,
      "Cannot use the simulated MPS device in a forked subprocess: real MPS hangs there. To use "
      "the device with multiprocessing, you must use the 'spawn' start method");
  auto& m = memory();
  const auto size = static_cast<int64_t>(bytes);
  check_size(bytes);
  const double fraction = m.fraction;
  const int64_t limit = fraction > 0
      ? std::max<int64_t>(1, static_cast<int64_t>(fraction * static_cast<double>(m.device_size())))
      : m.limit.load();
  const int64_t before = m.allocated.fetch_add(size);
  if (limit > 0 && before + size > limit) {
    m.allocated -= size;
    TORCH_CHECK(
        false,
        "MPS backend out of memory (MPS allocated: ", readable(before),
        ", other allocations: ", readable(0), ", max allowed: ", readable(limit),
        "). Tried to allocate ", readable(size),
        " on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for "
        "memory allocations (may cause system failure).");
  }
  counters().allocations++;
  raise(m.peak_allocated, before + size);
  raise(m.reserved, before + size);
  raise(m.peak_reserved, m.reserved);
}

void give_back(size_t bytes) {
  memory().allocated -= static_cast<int64_t>(bytes);
  counters().frees++;
}

namespace {

struct Held {
  c10::Storage storage;
  size_t bytes;
};

void release(void* context) {
  auto* held = static_cast<Held*>(context);
  give_back(held->bytes);
  delete held;
}

} // namespace

c10::DataPtr as_device_memory(c10::Storage made_on_cpu) {
  const size_t bytes = made_on_cpu.nbytes();
  take(bytes);
  void* data = made_on_cpu.mutable_data();
  return {data, new Held{std::move(made_on_cpu), bytes}, &release, kDevice};
}

} // namespace simulated
