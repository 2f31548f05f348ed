// Leaving the process: autograd's thread for the device must be idle when Python ends.
//
// That thread lets go of a finished backward pass after its caller has gone on, for which it needs
// Python's lock. If Python ends meanwhile, the process aborts. Any accelerator's program can fall
// into that gap of torch's; on a device as slow as this one, a test would see it.

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace simulated {
namespace {

bool autograd_is_idle(bool& exists) {
  std::error_code ignored;
  exists = false;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    std::string line;
    std::getline(std::ifstream(task.path() / "stat"), line);
    // "number (name) state ..."
    const auto name_end = line.rfind(')');
    if (name_end == std::string::npos || line.find("(pt_autograd_") == std::string::npos) {
      continue;
    }
    exists = true;
    if (name_end + 2 >= line.size() || line[name_end + 2] != 'S') {
      return false;
    }
  }
  return true;
}

} // namespace
} // namespace simulated

// Called without Python's lock, so that the thread sleeps only for want of work.
extern "C" void simulated_wait_for_autograd() {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  bool exists = false;
  int idle = 0;
  while (idle < 3 && std::chrono::steady_clock::now() < give_up) {
    idle = simulated::autograd_is_idle(exists) ? idle + 1 : 0;
    if (!exists) {
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}
