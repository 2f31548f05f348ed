// Events: when they were recorded. Work is done by the time a call returns, so none is waited for.

#include "device.h"

#include <c10/util/Exception.h>

#include <chrono>
#include <map>
#include <mutex>

namespace simulated {
namespace {

using Clock = std::chrono::steady_clock;

struct Event {
  bool timed;
  bool recorded = false;
  Clock::time_point when{};
};

std::mutex lock;
uint32_t last = 0;

// Leaked on purpose: Python may release events when statics are gone already.
std::map<uint32_t, Event>& events() {
  static auto* all = new std::map<uint32_t, Event>();
  return *all;
}

Event& find(uint32_t id) {
  auto found = events().find(id);
  TORCH_CHECK(found != events().end(), "Invalid Event ID: ", id);
  return found->second;
}

} // namespace

uint32_t acquire_event(bool timed) {
  std::lock_guard<std::mutex> guard(lock);
  events()[++last] = Event{timed};
  return last;
}

void release_event(uint32_t id) {
  std::lock_guard<std::mutex> guard(lock);
  events().erase(id);
}

void record_event(uint32_t id) {
  std::lock_guard<std::mutex> guard(lock);
  Event& event = find(id);
  event.recorded = true;
  event.when = Clock::now();
}

bool query_event(uint32_t id) {
  std::lock_guard<std::mutex> guard(lock);
  return find(id).recorded;
}

double elapsed_milliseconds(uint32_t start_id, uint32_t end_id) {
  counters().synchronizations++;  // as a device does, before it looks at the times
  std::lock_guard<std::mutex> guard(lock);
  const Event& start = find(start_id);
  const Event& end = find(end_id);
  check_elapsed(
      start.timed && end.timed, start.recorded && end.recorded, end.when > start.when, start_id,
      end_id);
  return std::chrono::duration<double, std::milli>(end.when - start.when).count();
}

} // namespace simulated
