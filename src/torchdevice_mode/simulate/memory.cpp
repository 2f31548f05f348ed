// The device's memory: host memory that is accounted for, and that runs out where it should.

#include "device.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <sstream>
#include <string>

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

bool used = !kIsCuda;  // Metal's process has the device from its start on
bool in_forked_child = false;
const bool watching_forks =
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = in_forked_child || used; }) == 0;

} // namespace

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

namespace {

void raise(std::atomic<int64_t>& highest, int64_t value) {
  int64_t seen = highest.load();
  while (seen < value && !highest.compare_exchange_weak(seen, value)) {
  }
}

} // namespace

bool in_bad_fork() {
  return in_forked_child;
}

void take(size_t bytes) {
  if (in_forked_child) {
    raise_in_forked_child();
  }
  used = true;
  auto& m = memory();
  check_size(bytes);
  const int64_t size = block_size(static_cast<int64_t>(bytes));
  const double fraction = m.fraction;
  const int64_t limit = fraction > 0
      ? std::max<int64_t>(1, static_cast<int64_t>(fraction * static_cast<double>(m.device_size())))
      : m.limit.load();
  const int64_t before = m.allocated.fetch_add(size);
  if (limit > 0 && before + size > limit) {
    m.allocated -= size;
    raise_out_of_memory(static_cast<int64_t>(bytes), before, limit);
  }
  counters().allocations++;
  raise(m.peak_allocated, before + size);
  raise(m.reserved, held_for(before + size));
  raise(m.peak_reserved, m.reserved);
}

void give_back(size_t bytes) {
  memory().allocated -= block_size(static_cast<int64_t>(bytes));
  counters().frees++;
}

void empty_cache() {
  memory().reserved = held_for(memory().allocated);
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

extern "C" int simulated_in_bad_fork() {
  return simulated::in_bad_fork() ? 1 : 0;
}

// A process that forks from here on leaves its children without the device.
extern "C" void simulated_start() {
  simulated::used = true;
}
