#include <memory>
#include <string>

#include "../ptx.h"
#include "launch.h"

using namespace emu;

struct ptx_module {
  std::unique_ptr<Module> module;
};

namespace {

thread_local std::string error_text;
thread_local int error_kind = 0;

/// Runs f; what it throws becomes the thread's error.
template <class F>
bool succeeds(F f) {
  error_text.clear();
  error_kind = 0;
  try {
    f();
    return true;
  } catch (const Fault& fault) {
    error_text = fault.what();
    error_kind = static_cast<int>(fault.kind) + 1;
  } catch (const std::exception& error) {
    error_text = error.what();
  }
  return false;
}

}  // namespace

extern "C" {

ptx_module* ptx_load(const char* text) {
  auto loaded = std::make_unique<ptx_module>();
  bool good = succeeds([&] {
    loaded->module = parse(text);
    for (const auto& [name, variable] : loaded->module->globals) {
      auto kind =
          variable->space == Space::Const ? Allocation::Kind::Constant : Allocation::Kind::Module;
      device_memory().add(reinterpret_cast<void*>(variable->address), variable->bytes, kind, name);
    }
  });
  return good ? loaded.release() : nullptr;
}

void ptx_unload(ptx_module* module) {
  for (const auto& [name, variable] : module->module->globals) {
    device_memory().remove(reinterpret_cast<void*>(variable->address));
  }
  delete module;
}

int ptx_launch(ptx_module* module, const char* kernel, const uint32_t grid[3],
               const uint32_t block[3], uint32_t dynamic_shared, const void* const* arguments,
               int cooperative, const ptx_options* options, ptx_counters* counters) {
  return succeeds([&] {
    LaunchOptions chosen;
    if (options != nullptr) {
      if (options->instruction_limit != 0) chosen.instruction_limit = options->instruction_limit;
      if (options->host_threads != 0) chosen.host_threads = options->host_threads;
      chosen.seed = options->seed;
      for (int kind = 1; kind <= PTX_UNSUPPORTED; kind++) {
        if (options->tolerated >> kind & 1)
          chosen.tolerated.push_back(static_cast<ReportKind>(kind - 1));
      }
    }
    LaunchResult result =
        launch(*module->module, kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
               dynamic_shared, arguments, cooperative != 0, device_memory(), chosen);
    if (counters == nullptr) return;
    const Counters& c = result.counters;
    *counters = {
        c.warp_instructions,    c.tensor_instructions, c.multiply_adds,        c.global_bytes_read,
        c.global_bytes_written, c.shared_bytes_read,   c.shared_bytes_written, c.barriers,
        result.reports.size()};
  })
             ? 0
             : 1;
}

void* ptx_allocate(size_t bytes) {
  return device_memory().allocate(bytes, Allocation::Kind::Device, "allocation");
}
int ptx_free(void* address) { return device_memory().release(address) ? 0 : 1; }
void ptx_add_memory(const void* address, size_t bytes, const char* name) {
  device_memory().add(address, bytes, Allocation::Kind::Host, name);
}
void ptx_remove_memory(const void* address) { device_memory().remove(address); }
void ptx_mark_written(const void* address, size_t bytes) {
  device_memory().mark_written(address, bytes);
}

const char* ptx_error(void) { return error_text.c_str(); }
int ptx_error_kind(void) { return error_kind; }

}  // extern "C"
