// ptxrun: runs one kernel of a PTX file on the CPU. `ptxrun --help` has the options.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "src/launch.h"

namespace {

using namespace emu;

constexpr const char* kUsage =
    "usage: ptxrun FILE.ptx [options] [argument ...]\n"
    "\n"
    "Runs a kernel and checks its memory accesses, barriers and races. Without --kernel it lists "
    "the\n"
    "file's kernels and says which of them can not be run, and why.\n"
    "\n"
    "  --kernel NAME          the kernel\n"
    "  --grid X[,Y[,Z]]       blocks (1)\n"
    "  --block X[,Y[,Z]]      threads of a block (32)\n"
    "  --shared BYTES         dynamic shared memory (0)\n"
    "  --cooperative          all blocks are resident and may synchronise\n"
    "  --limit N              warp instructions before the kernel counts as hanging (4000000000)\n"
    "  --seed N               run warps in another, repeatable order\n"
    "  --threads N            threads of the host, for kernels without global atomics (1)\n"
    "  --tolerate KIND        write down reports of this kind and go on (\"race\", \"uninitialised "
    "read\", ...)\n"
    "\n"
    "arguments, one per parameter of the kernel:\n"
    "  u32:7 s32:-7 u64:7 s64:-7 f32:0.5 f64:0.5   a number\n"
    "  in:FILE          device memory with the file's bytes\n"
    "  out:FILE:BYTES   device memory that nobody wrote; saved to the file afterwards\n"
    "  inout:FILE       device memory with the file's bytes; saved to the file afterwards\n";

[[noreturn]] void stop(const std::string& what) {
  std::fprintf(stderr, "ptxrun: %s\n", what.c_str());
  std::exit(2);
}

std::vector<uint8_t> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) stop("can not read " + path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

Dimensions dimensions(const char* text) {
  Dimensions d;
  if (std::sscanf(text, "%u,%u,%u", &d.x, &d.y, &d.z) < 1) stop(std::string("not X,Y,Z: ") + text);
  return d;
}

struct Output {
  std::string path;
  const void* memory;
  size_t bytes;
};

class Arguments {
 public:
  explicit Arguments(DeviceMemory& memory) : memory_(memory) {}

  void add(const std::string& text) {
    size_t colon = text.find(':');
    if (colon == std::string::npos) stop("argument " + text + " has no kind; see --help");
    std::string kind = text.substr(0, colon), value = text.substr(colon + 1);
    uint64_t bits = 0;
    if (kind == "in" || kind == "inout") {
      std::vector<uint8_t> bytes = read_file(value);
      bits = device(bytes.size());
      std::memcpy(reinterpret_cast<void*>(bits), bytes.data(), bytes.size());
      memory_.mark_written(reinterpret_cast<void*>(bits), bytes.size());
      if (kind == "inout") outputs_.push_back({value, reinterpret_cast<void*>(bits), bytes.size()});
    } else if (kind == "out") {
      size_t split = value.rfind(':');
      if (split == std::string::npos) stop("argument " + text + " has no size");
      size_t bytes = std::strtoull(value.c_str() + split + 1, nullptr, 0);
      bits = device(bytes);
      outputs_.push_back({value.substr(0, split), reinterpret_cast<void*>(bits), bytes});
    } else if (kind == "f32") {
      bits = put<float>(std::strtof(value.c_str(), nullptr));
    } else if (kind == "f64") {
      bits = put<double>(std::strtod(value.c_str(), nullptr));
    } else if (kind == "u32" || kind == "u64") {
      bits = std::strtoull(value.c_str(), nullptr, 0);
    } else if (kind == "s32" || kind == "s64") {
      bits = static_cast<uint64_t>(std::strtoll(value.c_str(), nullptr, 0));
    } else {
      stop("argument kind " + kind + " is not known; see --help");
    }
    values_.push_back(std::make_unique<uint64_t>(bits));
  }

  std::vector<const void*> pointers() const {
    std::vector<const void*> list;
    for (const auto& value : values_) list.push_back(value.get());
    return list;
  }

  void save() const {
    for (const Output& output : outputs_) {
      std::ofstream out(output.path, std::ios::binary);
      out.write(static_cast<const char*>(output.memory),
                static_cast<std::streamsize>(output.bytes));
      if (!out) stop("can not write " + output.path);
    }
  }

 private:
  uint64_t device(size_t bytes) {
    std::string name = "argument " + std::to_string(values_.size());
    void* memory = memory_.allocate(bytes, Allocation::Kind::Device, name);
    if (memory == nullptr) stop("no memory for " + std::to_string(bytes) + " B");
    return reinterpret_cast<uint64_t>(memory);
  }

  DeviceMemory& memory_;
  std::vector<std::unique_ptr<uint64_t>> values_;
  std::vector<Output> outputs_;
};

ReportKind kind_named(const std::string& name) {
  for (int kind = 0; kind <= static_cast<int>(ReportKind::Unsupported); kind++) {
    if (name == name_of(static_cast<ReportKind>(kind))) return static_cast<ReportKind>(kind);
  }
  stop("no kind of report is called \"" + name + "\"");
}

void list_kernels(const Module& module) {
  for (const auto& [name, function] : module.functions) {
    std::printf("%s: %zu instructions, %zu parameters, %u B static shared memory%s%s\n",
                name.c_str(), function->code.size(), function->parameters.size(),
                function->shared_bytes, function->unsupported.empty() ? "" : "\n  ",
                function->unsupported.c_str());
  }
}

int run(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "--help") == 0) {
    std::fputs(kUsage, argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
  }
  std::vector<uint8_t> text = read_file(argv[1]);
  std::unique_ptr<Module> module = parse(std::string(text.begin(), text.end()));
  DeviceMemory memory;
  for (const auto& [name, variable] : module->globals) {
    auto kind =
        variable->space == Space::Const ? Allocation::Kind::Constant : Allocation::Kind::Module;
    memory.add(reinterpret_cast<void*>(variable->address), variable->bytes, kind, name);
  }
  Arguments arguments(memory);
  std::string kernel;
  Dimensions grid, block{32, 1, 1};
  uint32_t shared = 0;
  bool cooperative = false;
  LaunchOptions options;
  for (int i = 2; i < argc; i++) {
    std::string option = argv[i];
    if (option == "--cooperative") {
      cooperative = true;
      continue;
    }
    if (option.compare(0, 2, "--") != 0) {
      arguments.add(option);
      continue;
    }
    if (i + 1 >= argc) stop("option " + option + " needs a value");
    const char* value = argv[++i];
    if (option == "--kernel") {
      kernel = value;
    } else if (option == "--grid") {
      grid = dimensions(value);
    } else if (option == "--block") {
      block = dimensions(value);
    } else if (option == "--shared") {
      shared = static_cast<uint32_t>(std::strtoul(value, nullptr, 0));
    } else if (option == "--limit") {
      options.instruction_limit = std::strtoull(value, nullptr, 0);
    } else if (option == "--seed") {
      options.seed = std::strtoull(value, nullptr, 0);
    } else if (option == "--threads") {
      options.host_threads = static_cast<unsigned>(std::strtoul(value, nullptr, 0));
    } else if (option == "--tolerate") {
      options.tolerated.push_back(kind_named(value));
    } else {
      stop("option " + option + " is not known; see --help");
    }
  }
  if (kernel.empty()) {
    list_kernels(*module);
    return 0;
  }
  std::vector<const void*> values = arguments.pointers();
  size_t parameters = module->kernel(kernel).parameters.size();
  if (values.size() != parameters) {
    stop("kernel " + kernel + " has " + std::to_string(parameters) + " parameters, not " +
         std::to_string(values.size()));
  }
  LaunchResult result =
      launch(*module, kernel, grid, block, shared, values.data(), cooperative, memory, options);
  arguments.save();
  for (const Report& report : result.reports) {
    std::fprintf(stderr, "%s at PTX line %u, %llu times: %s\n", name_of(report.kind), report.line,
                 static_cast<unsigned long long>(report.times), report.what.c_str());
  }
  const Counters& c = result.counters;
  std::printf(
      "warp instructions %llu\ntensor instructions %llu\nmultiply-adds %llu\nglobal bytes read "
      "%llu\n"
      "global bytes written %llu\nshared bytes read %llu\nshared bytes written %llu\n",
      static_cast<unsigned long long>(c.warp_instructions),
      static_cast<unsigned long long>(c.tensor_instructions),
      static_cast<unsigned long long>(c.multiply_adds),
      static_cast<unsigned long long>(c.global_bytes_read),
      static_cast<unsigned long long>(c.global_bytes_written),
      static_cast<unsigned long long>(c.shared_bytes_read),
      static_cast<unsigned long long>(c.shared_bytes_written));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const emu::Error& error) {
    std::fprintf(stderr, "ptxrun: %s\n", error.what());
    return 1;
  }
}
