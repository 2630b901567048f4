// The addon for Deno, Node and Bun: session.h in JavaScript. `src/backend/native/addon.ts` has the types.
// Errors have a `code`, ORT_<number of onnxruntime's error code>.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../abi/node_abi.h"
#include "../ops/attention_plan.h"
#include "../ops/cuda_kernel.h"
#include "../ops/step_batch.h"
#ifdef HYBRIDSEEK_CUDA
#include "../ops/cuda_selftest.h"
#endif
#include "communicator.h"
#include "session.h"

extern "C" size_t hybridseek_cache_copies();

namespace hybridseek {

namespace {


void check_napi(napi_status status) {
  if (status != 0) throw Error(kOrtInvalidArgument, "Cannot call: an argument has another type.");
}

napi_value text(napi_env env, const std::string& value) {
  napi_value result = nullptr;
  check_napi(napi_create_string_utf8(env, value.c_str(), value.size(), &result));
  return result;
}

napi_value undefined(napi_env env) {
  napi_value result = nullptr;
  check_napi(napi_get_undefined(env, &result));
  return result;
}

napi_value error_value(napi_env env, int code, const std::string& message) {
  napi_value result = nullptr;
  check_napi(napi_create_error(env, text(env, "ORT_" + std::to_string(code)), text(env, message), &result));
  return result;
}

std::string string_of(napi_env env, napi_value value) {
  size_t length = 0;
  check_napi(napi_get_value_string_utf8(env, value, nullptr, 0, &length));
  std::string result(length + 1, '\0');
  check_napi(napi_get_value_string_utf8(env, value, result.data(), result.size(), &length));
  result.resize(length);
  return result;
}

int64_t integer_of(napi_env env, napi_value value) {
  int64_t result = 0;
  check_napi(napi_get_value_int64(env, value, &result));
  return result;
}

size_t size_of(napi_env env, napi_value value) {
  int64_t result = integer_of(env, value);
  if (result < 0) throw Error(kOrtInvalidArgument, "Cannot call: a size is negative.");
  return static_cast<size_t>(result);
}

std::vector<napi_value> list_of(napi_env env, napi_value value) {
  uint32_t length = 0;
  check_napi(napi_get_array_length(env, value, &length));
  std::vector<napi_value> result(length);
  for (uint32_t i = 0; i < length; i++) check_napi(napi_get_element(env, value, i, &result[i]));
  return result;
}

Dims dims_of(napi_env env, napi_value value) {
  Dims dims;
  for (napi_value size : list_of(env, value)) dims.push_back(integer_of(env, size));
  return dims;
}

struct View {
  int type;
  void* data;
  size_t bytes;
};

View view_of(napi_env env, napi_value value) {
  int type = 0;
  size_t length = 0;
  View view{};
  check_napi(napi_get_typedarray_info(env, value, &type, &length, &view.data, nullptr, nullptr));
  switch (type) {
    case kNapiUint8Array: view.type = kUint8; break;
    case kNapiInt32Array: view.type = kInt32; break;
    case kNapiFloat32Array: view.type = kFloat; break;
    default: throw Error(kOrtInvalidArgument, "Cannot call: no such typed array.");
  }
  view.bytes = length * (view.type == kUint8 ? 1 : 4);
  static char nothing[64];
  if (!view.data) view.data = nothing;  // onnxruntime wants an address of empty tensors too
  return view;
}

int type_of(const std::string& name) {
  if (name == "float32") return kFloat;
  if (name == "float16") return kFloat16;
  if (name == "bfloat16") return kBfloat16;
  if (name == "float8e4m3fn") return kFloat8;
  if (name == "int32") return kInt32;
  if (name == "uint8") return kUint8;
  throw Error(kOrtInvalidArgument, "Cannot make a tensor: no such type as " + name + ".");
}

// What JavaScript holds on to. The tag tells its kind.
template <typename T>
struct Handle {
  static const char tag;
  const char* kind = &tag;
  std::shared_ptr<T> object;
};
template <typename T>
const char Handle<T>::tag = 0;

template <typename T>
napi_value wrap(napi_env env, std::shared_ptr<T> object) {
  auto handle = new Handle<T>{&Handle<T>::tag, std::move(object)};
  auto finalize = [](napi_env, void* data, void*) { delete static_cast<Handle<T>*>(data); };
  napi_value result = nullptr;
  check_napi(napi_create_external(env, handle, finalize, nullptr, &result));
  return result;
}

template <typename T>
Handle<T>& handle_of(napi_env env, napi_value value) {
  int type = 0;
  check_napi(napi_typeof(env, value, &type));
  void* data = nullptr;
  if (type == kNapiExternal) check_napi(napi_get_value_external(env, value, &data));
  auto handle = static_cast<Handle<T>*>(data);
  if (!handle || handle->kind != &Handle<T>::tag) {
    throw Error(kOrtInvalidArgument, "Cannot call: an argument is no handle of its kind.");
  }
  return *handle;
}

template <typename T>
std::shared_ptr<T> unwrap(napi_env env, napi_value value) {
  auto object = handle_of<T>(env, value).object;
  if (!object) throw Error(kOrtInvalidArgument, "Cannot call: the handle has been closed.");
  return object;
}

constexpr size_t kMostArguments = 6;
using Arguments = napi_value[kMostArguments];

// A function of the addon: exceptions become JavaScript's.
template <napi_value (*function)(napi_env, Arguments&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  int code = kOrtFail;
  std::string message;
  try {
    size_t count = kMostArguments;
    Arguments arguments{};
    check_napi(napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr));
    return function(env, arguments);
  } catch (const Error& error) {
    code = error.code;
    message = error.what();
  } catch (const std::exception& error) {
    message = error.what();
  }
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) napi_throw(env, error_value(env, code, message));
  return nullptr;
}

// Work on another thread, and the promise of its end.
struct Work {
  virtual ~Work() = default;
  virtual void execute() = 0;
  virtual napi_value result(napi_env env) { return undefined(env); }

  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  std::vector<napi_ref> kept;  // whose memory the work uses
  bool failed = false;
  int code = kOrtFail;
  std::string message;
};

napi_value start(napi_env env, std::unique_ptr<Work> owned) {
  Work* work = owned.get();
  napi_value promise = nullptr;
  check_napi(napi_create_promise(env, &work->deferred, &promise));
  auto execute = [](napi_env, void* data) {
    auto work = static_cast<Work*>(data);
    try {
      work->execute();
      return;
    } catch (const Error& error) {
      work->code = error.code;
      work->message = error.what();
    } catch (const std::exception& error) {
      work->message = error.what();
    }
    work->failed = true;
  };
  auto complete = [](napi_env env, napi_status, void* data) {
    std::unique_ptr<Work> work(static_cast<Work*>(data));
    for (napi_ref reference : work->kept) napi_delete_reference(env, reference);
    if (work->failed) {
      napi_reject_deferred(env, work->deferred, error_value(env, work->code, work->message));
    } else {
      napi_resolve_deferred(env, work->deferred, work->result(env));
    }
    napi_delete_async_work(env, work->work);
  };
  check_napi(napi_create_async_work(env, nullptr, text(env, "hybridseek"), execute, complete, work,
                                    &work->work));
  check_napi(napi_queue_async_work(env, work->work));
  owned.release();  // `complete` deletes it
  return promise;
}

// openRuntime(path): { version, suffices }
napi_value open_runtime(napi_env env, Arguments& arguments) {
  const Runtime& runtime = Runtime::open(string_of(env, arguments[0]));
  napi_value result = nullptr, suffices = nullptr;
  check_napi(napi_create_object(env, &result));
  check_napi(napi_set_named_property(env, result, "version", text(env, runtime.version())));
  check_napi(napi_get_boolean(env, runtime.suffices(), &suffices));
  check_napi(napi_set_named_property(env, result, "suffices", suffices));
  return result;
}

// Whether an argument was left out.
bool is_missing(napi_env env, napi_value value) {
  int type = kNapiUndefined;
  check_napi(napi_typeof(env, value, &type));
  return type == kNapiUndefined;
}

// createSession(runtimePath, model, folder, threads, [name, tensor][]?,
//               [arenaBytes, graphs, [name, bytes][]]?): Promise<Session>
napi_value create_session(napi_env env, Arguments& arguments) {
  struct Create : Work {
    const Runtime* runtime;
    std::string model, folder;
    int threads;
    std::vector<GivenTensor> given;
    std::unique_ptr<CudaSettings> cuda;
    std::shared_ptr<Session> session;
    void execute() override {
      session = std::make_shared<Session>(*runtime, model, folder, threads, given, cuda.get());
    }
    napi_value result(napi_env env) override { return wrap(env, session); }
  };
  auto work = std::make_unique<Create>();
  work->runtime = &Runtime::open(string_of(env, arguments[0]));
  View model = view_of(env, arguments[1]);
  work->model.assign(static_cast<const char*>(model.data), model.bytes);
  work->folder = string_of(env, arguments[2]);
  work->threads = static_cast<int>(integer_of(env, arguments[3]));
  auto parts_of = [&](napi_value value, size_t count) {
    auto parts = list_of(env, value);
    if (parts.size() == count) return parts;
    throw Error(kOrtInvalidArgument, "Cannot open: a part of an argument is missing.");
  };
  if (!is_missing(env, arguments[4])) {
    for (napi_value entry : list_of(env, arguments[4])) {
      auto parts = parts_of(entry, 2);
      work->given.push_back({string_of(env, parts[0]), unwrap<DeviceTensor>(env, parts[1])});
    }
  }
  if (!is_missing(env, arguments[5])) {
    auto settings = parts_of(arguments[5], 3);
    work->cuda.reset(new CudaSettings{size_of(env, settings[0]), integer_of(env, settings[1]) != 0, {}});
    for (napi_value entry : list_of(env, settings[2])) {
      auto parts = parts_of(entry, 2);
      work->cuda->on_device.emplace_back(string_of(env, parts[0]), size_of(env, parts[1]));
    }
  }
  return start(env, std::move(work));
}

// checkCuda(runtimePath): throws why its CUDA provider can not be had
napi_value check_cuda(napi_env env, Arguments& arguments) {
  Runtime::open(string_of(env, arguments[0])).check_cuda();
  return undefined(env);
}

// createTensor(runtimePath, device, type, dims): Tensor
napi_value create_tensor(napi_env env, Arguments& arguments) {
  const Runtime& runtime = Runtime::open(string_of(env, arguments[0]));
  return wrap(env, std::make_shared<DeviceTensor>(runtime, string_of(env, arguments[1]),
                                                  type_of(string_of(env, arguments[2])),
                                                  dims_of(env, arguments[3])));
}

// bindInPlace(session, input, output, tensor)
napi_value bind_in_place(napi_env env, Arguments& arguments) {
  unwrap<Session>(env, arguments[0])
      ->bind_in_place(string_of(env, arguments[1]), string_of(env, arguments[2]),
                      unwrap<DeviceTensor>(env, arguments[3]));
  return undefined(env);
}

// [name, dims, typed array][]
std::vector<HostTensor> host_tensors(napi_env env, napi_value list, std::vector<napi_ref>& kept) {
  std::vector<HostTensor> tensors;
  for (napi_value entry : list_of(env, list)) {
    auto parts = list_of(env, entry);
    if (parts.size() != 3) throw Error(kOrtInvalidArgument, "Cannot run: a tensor has three parts.");
    View view = view_of(env, parts[2]);
    tensors.push_back({string_of(env, parts[0]), view.type, dims_of(env, parts[1]), view.data, view.bytes});
    napi_ref reference = nullptr;
    check_napi(napi_create_reference(env, parts[2], 1, &reference));
    kept.push_back(reference);
  }
  return tensors;
}

// run(session, inputs, outputs, graph?): Promise<void>
napi_value run(napi_env env, Arguments& arguments) {
  struct Step : Work {
    std::shared_ptr<Session> session;
    std::vector<HostTensor> inputs, outputs;
    int graph = -1;
    void execute() override { session->run(inputs, outputs, graph); }
  };
  auto work = std::make_unique<Step>();
  work->session = unwrap<Session>(env, arguments[0]);
  if (!is_missing(env, arguments[3])) work->graph = static_cast<int>(integer_of(env, arguments[3]));
  try {
    work->inputs = host_tensors(env, arguments[1], work->kept);
    work->outputs = host_tensors(env, arguments[2], work->kept);
  } catch (...) {
    for (napi_ref reference : work->kept) napi_delete_reference(env, reference);
    throw;
  }
  return start(env, std::move(work));
}

// writeTensor(tensor, offset, typed array)
napi_value write_tensor(napi_env env, Arguments& arguments) {
  View view = view_of(env, arguments[2]);
  unwrap<DeviceTensor>(env, arguments[0])->write(size_of(env, arguments[1]), view.data, view.bytes);
  return undefined(env);
}

// readTensor(tensor, offset, typed array)
napi_value read_tensor(napi_env env, Arguments& arguments) {
  View view = view_of(env, arguments[2]);
  unwrap<DeviceTensor>(env, arguments[0])->read(size_of(env, arguments[1]), view.data, view.bytes);
  return undefined(env);
}

// copyWithin(tensor, from, to, bytes)
napi_value copy_within(napi_env env, Arguments& arguments) {
  unwrap<DeviceTensor>(env, arguments[0])
      ->copy_within(size_of(env, arguments[1]), size_of(env, arguments[2]), size_of(env, arguments[3]));
  return undefined(env);
}

// addressOf(tensor): bigint
napi_value address_of(napi_env env, Arguments& arguments) {
  auto address = reinterpret_cast<uint64_t>(unwrap<DeviceTensor>(env, arguments[0])->address());
  napi_value result = nullptr;
  check_napi(napi_create_bigint_uint64(env, address, &result));
  return result;
}

napi_value array_of(napi_env env, const std::vector<napi_value>& values) {
  napi_value result = nullptr;
  check_napi(napi_create_array(env, &result));
  for (size_t i = 0; i < values.size(); i++) {
    check_napi(napi_set_element(env, result, static_cast<uint32_t>(i), values[i]));
  }
  return result;
}

napi_value number_of(napi_env env, double value) {
  napi_value result = nullptr;
  check_napi(napi_create_double(env, value, &result));
  return result;
}

// gpu(): [free bytes, bytes, major and minor compute capability]
napi_value gpu(napi_env env, Arguments&) {
  cuda::open();
  size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const double values[] = {static_cast<double>(free),
                           static_cast<double>(total),
                           static_cast<double>(cuda::attribute(cuda::kMajor)),
                           static_cast<double>(cuda::attribute(cuda::kMinor))};
  std::vector<napi_value> list;
  for (double value : values) list.push_back(number_of(env, value));
  return array_of(env, list);
}

// pinnedMemory(bytes): ArrayBuffer
napi_value pinned_memory(napi_env env, Arguments& arguments) {
  cuda::open();
  size_t bytes = size_of(env, arguments[0]);
  auto memory = std::make_unique<cuda::Pinned>(std::max<size_t>(bytes, 1));
  auto finalize = [](napi_env, void*, void* hint) { delete static_cast<cuda::Pinned*>(hint); };
  napi_value result = nullptr;
  check_napi(napi_create_external_arraybuffer(env, memory->data(), bytes, finalize, memory.get(), &result));
  memory.release();
  return result;
}

// A plan as JavaScript holds it: with the number by which nodes know it.
struct Plan {
  std::shared_ptr<AttentionPlan> plan = std::make_shared<AttentionPlan>();
  int32_t number = register_plan(plan);
};

// createPlan([tokens, sequences, tableWidth]): Plan
napi_value create_plan(napi_env env, Arguments& arguments) {
  cuda::open();
  auto most = list_of(env, arguments[0]);
  if (most.size() != 3) throw Error(kOrtInvalidArgument, "Cannot plan: there must be three sizes.");
  auto plan = std::make_shared<Plan>();
  plan->plan->reserve(size_of(env, most[0]), size_of(env, most[1]), size_of(env, most[2]));
  return wrap(env, std::move(plan));
}

// planStep(plan, [heads, blockSize, blocks], [slots, queryStarts, contextLengths, blockTables]): number
napi_value plan_step(napi_env env, Arguments& arguments) {
  auto plan = unwrap<Plan>(env, arguments[0]);
  auto sizes = list_of(env, arguments[1]), arrays = list_of(env, arguments[2]);
  auto error = [](const std::string& what) { return Error(kOrtInvalidArgument, "Cannot plan the step: " + what); };
  if (sizes.size() != 3 || arrays.size() != 4) throw error("an argument is missing.");
  std::vector<View> views;
  for (napi_value array : arrays) {
    views.push_back(view_of(env, array));
    if (views.back().type != kInt32) throw error("an array is not of int32.");
  }
  auto count = [&](size_t i) { return views[i].bytes / sizeof(int32_t); };
  auto data = [&](size_t i) { return static_cast<const int32_t*>(views[i].data); };
  size_t tokens = count(0), sequences = count(2);
  if (tokens == 0 || sequences == 0 || count(1) != sequences + 1 || count(3) % sequences != 0) {
    throw error("its arrays do not fit each other.");
  }
  cpu::Batch batch{tokens, sequences, count(3) / sequences, data(0), data(1), data(2), data(3)};
  size_t heads = size_of(env, sizes[0]), block_size = size_of(env, sizes[1]), blocks = size_of(env, sizes[2]);
  if (heads == 0 || block_size == 0) throw error("it has no heads or no rows in a block.");
  check_batch(batch, static_cast<int64_t>(blocks), static_cast<int64_t>(block_size), error);
  plan->plan->make(batch, static_cast<uint32_t>(heads), static_cast<uint32_t>(block_size));
  plan->plan->blocks = blocks;
  return number_of(env, plan->number);
}

// Ranks as JavaScript holds them: with the number by which nodes know them.
struct Ranks {
  std::shared_ptr<PointToPoint> known;
  std::shared_ptr<Communicator> tensors;  // where another transport carries the tensors
  int64_t number = 0;
};

napi_value bytes_of(napi_env env, const std::string& bytes) {
  void* data = nullptr;
  napi_value buffer = nullptr, result = nullptr;
  check_napi(napi_create_arraybuffer(env, bytes.size(), &data, &buffer));
  if (!bytes.empty()) std::memcpy(data, bytes.data(), bytes.size());
  check_napi(napi_create_typedarray(env, kNapiUint8Array, bytes.size(), buffer, 0, &result));
  return result;
}

struct Join : Work {
  std::shared_ptr<Ranks> ranks = std::make_shared<Ranks>();
  std::string library;  // of MPI, or of NCCL where ranks know each other already
  MeetingPlace place;
  void execute() override {
    if (ranks->known) {
      ranks->tensors = join_nccl(*ranks->known, library);
    } else if (!library.empty()) {
      ranks->known = join_mpi(library, place.timeout);
    } else {
      ranks->known = join_sockets(place);
    }
    ranks->number = ranks->tensors ? register_communicator(ranks->tensors)
                                   : register_communicator(ranks->known);
  }
  napi_value result(napi_env env) override { return wrap(env, ranks); }
};

// joinSockets(address, port, key, [rank, ranks, timeoutMs]): Promise<Ranks>
napi_value join_by_sockets(napi_env env, Arguments& arguments) {
  auto work = std::make_unique<Join>();
  auto numbers = list_of(env, arguments[3]);
  if (numbers.size() != 3) throw Error(kOrtInvalidArgument, "Cannot join: there must be three numbers.");
  auto number = [&](size_t i) { return static_cast<int>(integer_of(env, numbers[i])); };
  work->place = {string_of(env, arguments[0]), static_cast<int>(integer_of(env, arguments[1])),
                 string_of(env, arguments[2]), number(0),
                 number(1),                    std::chrono::milliseconds(number(2))};
  const MeetingPlace& place = work->place;
  if (place.ranks < 1 || place.rank < 0 || place.rank >= place.ranks) {
    throw Error(kOrtInvalidArgument, "Cannot join: there is no rank " + std::to_string(place.rank) +
                                         " of " + std::to_string(place.ranks) + ".");
  }
  return start(env, std::move(work));
}

// joinMpi(library, timeoutMs): Promise<Ranks>
napi_value join_by_mpi(napi_env env, Arguments& arguments) {
  auto work = std::make_unique<Join>();
  work->library = string_of(env, arguments[0]);
  work->place.timeout = std::chrono::milliseconds(integer_of(env, arguments[1]));
  return start(env, std::move(work));
}

// joinNccl(ranks, library): Promise<Ranks>
napi_value join_by_nccl(napi_env env, Arguments& arguments) {
  auto work = std::make_unique<Join>();
  work->ranks->known = unwrap<Ranks>(env, arguments[0])->known;
  work->library = string_of(env, arguments[1]);
  return start(env, std::move(work));
}

// placeOf(ranks): [rank, ranks, number]
napi_value place_of(napi_env env, Arguments& arguments) {
  auto ranks = unwrap<Ranks>(env, arguments[0]);
  auto number = [&](int64_t value) { return number_of(env, static_cast<double>(value)); };
  return array_of(env, {number(ranks->known->rank), number(ranks->known->ranks), number(ranks->number)});
}

// broadcast(ranks, bytes): Promise<Uint8Array>, gather(ranks, bytes): Promise<Uint8Array[]>
template <bool gathers>
napi_value tell(napi_env env, Arguments& arguments) {
  struct Tell : Work {
    std::shared_ptr<Ranks> ranks;
    std::string bytes;
    std::vector<std::string> gathered;
    void execute() override {
      if (gathers) {
        gathered = ranks->known->gather(bytes);
      } else {
        bytes = ranks->known->broadcast(bytes);
      }
    }
    napi_value result(napi_env env) override {
      if (!gathers) return bytes_of(env, bytes);
      std::vector<napi_value> values;
      for (const std::string& one : gathered) values.push_back(bytes_of(env, one));
      return array_of(env, values);
    }
  };
  auto work = std::make_unique<Tell>();
  work->ranks = unwrap<Ranks>(env, arguments[0]);
  View view = view_of(env, arguments[1]);
  work->bytes.assign(static_cast<const char*>(view.data), view.bytes);
  return start(env, std::move(work));
}

// abortRanks(ranks, reason)
napi_value abort_ranks(napi_env env, Arguments& arguments) {
  auto ranks = unwrap<Ranks>(env, arguments[0]);
  std::string reason = string_of(env, arguments[1]);
  if (ranks->tensors) ranks->tensors->abort(reason);
  ranks->known->abort(reason);
  return undefined(env);
}

// closeSession(session), closeTensor(tensor), leaveRanks(ranks): frees them once nothing uses them
template <typename T>
napi_value close(napi_env env, Arguments& arguments) {
  handle_of<T>(env, arguments[0]).object.reset();
  return undefined(env);
}

// cacheCopies(): number
napi_value cache_copies(napi_env env, Arguments&) {
  napi_value result = nullptr;
  check_napi(napi_create_double(env, static_cast<double>(hybridseek_cache_copies()), &result));
  return result;
}

// selftest(1: with timings, else 0): a JSON text of [name, error, bound, microseconds, least microseconds]s
napi_value selftest(napi_env env, Arguments& arguments) {
#ifdef HYBRIDSEEK_CUDA
  std::string json = "[";
  for (const SelftestResult& result : cuda_selftest(integer_of(env, arguments[0]) != 0)) {
    json += json.size() > 1 ? ",[\"" : "[\"";
    json += result.name + "\"";
    for (double number : {result.error, result.bound, result.microseconds, result.least}) {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%.6e", number);
      json += std::string(",") + (std::isfinite(number) ? digits : "null");
    }
    json += "]";
  }
  return text(env, json + "]");
#else
  static_cast<void>(env), static_cast<void>(arguments);
  throw Error(kOrtNotImplemented, "Cannot use CUDA: this library was built without its kernels.");
#endif
}

}  // namespace

}  // namespace hybridseek

using namespace hybridseek;

extern "C" __attribute__((visibility("default"))) int32_t node_api_module_get_api_version_v1() {
  return 6;  // of Node-API
}

extern "C" __attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env,
                                                                                     napi_value exports) {
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {
      {"openRuntime", guarded<open_runtime>},
      {"checkCuda", guarded<check_cuda>},
      {"createSession", guarded<create_session>},
      {"createTensor", guarded<create_tensor>},
      {"bindInPlace", guarded<bind_in_place>},
      {"run", guarded<run>},
      {"gpu", guarded<gpu>},
      {"pinnedMemory", guarded<pinned_memory>},
      {"createPlan", guarded<create_plan>},
      {"planStep", guarded<plan_step>},
      {"closePlan", guarded<close<Plan>>},
      {"writeTensor", guarded<write_tensor>},
      {"readTensor", guarded<read_tensor>},
      {"copyWithin", guarded<copy_within>},
      {"addressOf", guarded<address_of>},
      {"closeSession", guarded<close<Session>>},
      {"closeTensor", guarded<close<DeviceTensor>>},
      {"joinSockets", guarded<join_by_sockets>},
      {"joinMpi", guarded<join_by_mpi>},
      {"joinNccl", guarded<join_by_nccl>},
      {"placeOf", guarded<place_of>},
      {"broadcast", guarded<tell<false>>},
      {"gather", guarded<tell<true>>},
      {"abortRanks", guarded<abort_ranks>},
      {"leaveRanks", guarded<close<Ranks>>},
      {"cacheCopies", guarded<cache_copies>},
      {"selftest", guarded<selftest>},
  };
  for (auto& [name, function] : functions) {
    napi_value value = nullptr;
    if (napi_create_function(env, name, kNapiAutoLength, function, nullptr, &value) != 0) return nullptr;
    napi_set_named_property(env, exports, name, value);
  }
  napi_value cuda = nullptr;
#ifdef HYBRIDSEEK_CUDA
  if (napi_get_boolean(env, true, &cuda) != 0) return nullptr;
#else
  if (napi_get_boolean(env, false, &cuda) != 0) return nullptr;
#endif
  napi_set_named_property(env, exports, "cuda", cuda);
  napi_set_named_property(env, exports, "version", text(env, HYBRIDSEEK_VERSION));
  napi_set_named_property(env, exports, "sources", text(env, HYBRIDSEEK_SOURCES));
  return exports;
}
