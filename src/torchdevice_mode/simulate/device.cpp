// The device: allocator, hooks, guard and generator, registered for the real `mps` key.
//
// Its memory is host memory. PyTorch finds everything here through the registries that it keeps
// for its own Metal backend, which a Linux build leaves empty.

#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <map>
#include <mutex>
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
    fresh->total = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
    return fresh;
  }();
  return *instance;
}

namespace {

bool in_forked_child = false;

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

void take(size_t bytes) {
  TORCH_CHECK(
      !in_forked_child,
      "Cannot use the simulated MPS device in a forked subprocess: real MPS hangs there. To use "
      "the device with multiprocessing, you must use the 'spawn' start method");
  auto& m = memory();
  const auto size = static_cast<int64_t>(bytes);
  const int64_t limit = m.limit;
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

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      dtype != at::kDouble,
      "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
      "Please use float32 instead.");
  TORCH_CHECK_TYPE(
      dtype != at::kComplexDouble && !c10::isQIntType(dtype),
      "Trying to convert ", dtype,
      " to the MPS backend but it does not have support for that dtype.");
}

namespace {

// --- memory -----------------------------------------------------------------------------------

struct Allocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    c10::Storage storage(
        c10::Storage::use_byte_size_t(), bytes, c10::GetCPUAllocator(), /*resizable=*/false);
    return as_device_memory(std::move(storage));
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {
    memory().reserved = memory().allocated.load();
  }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    auto& m = memory();
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    stats.allocated_bytes[all].current = m.allocated;
    stats.allocated_bytes[all].peak = m.peak_allocated;
    stats.active_bytes[all].current = m.allocated;
    stats.active_bytes[all].peak = m.peak_allocated;
    stats.reserved_bytes[all].current = m.reserved;
    stats.reserved_bytes[all].peak = m.peak_reserved;
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {
    memory().peak_allocated = memory().allocated.load();
    memory().peak_reserved = memory().reserved.load();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    const int64_t total = memory().limit > 0 ? memory().limit : memory().total;
    return {std::max<int64_t>(total - memory().allocated, 0), total};
  }
};

Allocator& allocator() {
  static Allocator* instance = new Allocator();
  return *instance;
}

// --- random numbers ---------------------------------------------------------------------------

// Draws what a CPU generator of the same seed draws, so that results can be compared.
struct GeneratorImpl final : c10::GeneratorImpl {
  explicit GeneratorImpl(at::Generator wrapped)
      : c10::GeneratorImpl(kDevice, c10::DispatchKeySet(c10::DispatchKey::MPS)),
        cpu(std::move(wrapped)) {}

  void set_current_seed(uint64_t seed) override {
    cpu.set_current_seed(seed);
  }
  void set_offset(uint64_t value) override {
    offset = value;
  }
  uint64_t get_offset() const override {
    return offset;
  }
  uint64_t current_seed() const override {
    return cpu.current_seed();
  }
  uint64_t seed() override {
    return cpu.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    at::get_generator_or_default<at::CPUGeneratorImpl>(cpu, cpu)->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return at::get_generator_or_default<at::CPUGeneratorImpl>(cpu, cpu)->get_state();
  }
  GeneratorImpl* clone_impl() const override {
    return new GeneratorImpl(cpu.clone());
  }

  at::Generator cpu;
  uint64_t offset = 0;  // kept and given back; a CPU generator has none
};

at::Generator make_generator() {
  return at::make_generator<GeneratorImpl>(at::detail::createCPUGenerator());
}

const at::Generator& default_generator() {
  static auto* generator = new at::Generator(make_generator());
  return *generator;
}

// --- events -----------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;
std::mutex events_lock;
std::map<uint32_t, Clock::time_point> events;
uint32_t last_event = 0;

// --- hooks ------------------------------------------------------------------------------------

struct MPSHooks final : at::MPSHooksInterface {
  explicit MPSHooks(at::MPSHooksArgs = {}) {}

  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  void init() const override {}
  bool hasMPS() const override {
    return true;
  }
  bool isOnMacOSorNewer(unsigned, unsigned) const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return 1;
  }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex getCurrentDevice() const override {
    return 0;
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override {
    return 0;
  }
  c10::Device getDeviceFromPtr(void*) const override {
    return kDevice;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return make_generator();
  }
  c10::Allocator* getMPSDeviceAllocator() const override {
    return &allocator();
  }
  void deviceSynchronize() const override {
    counters().synchronizations++;
  }
  void commitStream() const override {}
  void emptyCache() const override {
    allocator().emptyCache({0, 0});
  }
  size_t getCurrentAllocatedMemory() const override {
    return memory().allocated;
  }
  size_t getDriverAllocatedMemory() const override {
    return memory().reserved;
  }
  size_t getRecommendedMaxMemory() const override {
    return memory().limit > 0 ? memory().limit : memory().total;
  }
  void setMemoryFraction(double ratio) const override {
    memory().limit = static_cast<int64_t>(ratio * static_cast<double>(memory().total));
  }
  void profilerStartTrace(const std::string&, bool) const override {}
  void profilerStopTrace() const override {}

  uint32_t acquireEvent(bool) const override {
    std::lock_guard<std::mutex> guard(events_lock);
    events[++last_event] = {};
    return last_event;
  }
  void releaseEvent(uint32_t event) const override {
    std::lock_guard<std::mutex> guard(events_lock);
    events.erase(event);
  }
  void recordEvent(uint32_t event) const override {
    std::lock_guard<std::mutex> guard(events_lock);
    events[event] = Clock::now();
  }
  void waitForEvent(uint32_t) const override {}
  void synchronizeEvent(uint32_t) const override {
    counters().synchronizations++;
  }
  bool queryEvent(uint32_t) const override {
    return true;
  }
  double elapsedTimeOfEvents(uint32_t start, uint32_t end) const override {
    std::lock_guard<std::mutex> guard(events_lock);
    return std::chrono::duration<double, std::milli>(events[end] - events[start]).count();
  }
};

// --- guard ------------------------------------------------------------------------------------

// One device and one stream, on which work is done by the time a call returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::DeviceType::MPS;
  }
  c10::Device exchangeDevice(c10::Device) const override {
    return kDevice;
  }
  c10::Device getDevice() const override {
    return kDevice;
  }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() <= 0, "MPS has one device, but got index ", device.index());
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream getDefaultStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  c10::Stream exchangeStream(c10::Stream) const override {
    return c10::Stream(c10::Stream::DEFAULT, kDevice);
  }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {
    counters().synchronizations++;
  }
  void synchronizeEvent(void*) const override {
    counters().synchronizations++;
  }
  void synchronizeDevice(c10::DeviceIndex) const override {
    counters().synchronizations++;
  }
};

const bool registered = [] {
  c10::SetAllocator(c10::DeviceType::MPS, &allocator());
  pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
  return true;
}();

} // namespace

at::Generator cpu_generator(const std::optional<at::Generator>& generator) {
  const at::Generator& given =
      generator.has_value() && generator->defined() ? *generator : default_generator();
  TORCH_CHECK(
      given.device().type() == c10::DeviceType::MPS,
      "Expected a 'mps' device type for generator but found '", given.device().type(), "'");
  return static_cast<GeneratorImpl*>(given.unsafeGetGeneratorImpl())->cpu;
}

C10_REGISTER_GUARD_IMPL(MPS, Guard);

} // namespace simulated

namespace at {
// The registry lives in this namespace and looks the class up by this name.
using simulated::MPSHooks;
REGISTER_MPS_HOOKS(MPSHooks);
} // namespace at

// --- what Python calls ------------------------------------------------------------------------

extern "C" {

int64_t simulated_counter(int which) {
  auto& c = simulated::counters();
  std::atomic<int64_t>* all[] = {
      &c.synchronizations, &c.copies_to_device, &c.copies_from_device,
      &c.copies_on_device, &c.bytes_to_device,  &c.bytes_from_device,
      &c.allocations,      &c.frees,            &c.operators};
  return all[which]->load();
}

// Returns the limit that was in force.
int64_t simulated_limit_memory(int64_t bytes) {
  return simulated::memory().limit.exchange(bytes);
}
}
