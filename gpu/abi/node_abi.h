// What is used of Node-API, which Deno, Node and Bun have. Its ABI is stable: functions by name, and every
// status but 0 is an error. They are weak, since Python loads the library as well and has none of them.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

typedef struct NapiEnv* napi_env;
typedef struct NapiValue* napi_value;
typedef struct NapiRef* napi_ref;
typedef struct NapiDeferred* napi_deferred;
typedef struct NapiAsyncWork* napi_async_work;
typedef struct NapiCallbackInfo* napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);
typedef void (*napi_finalize)(napi_env, void* data, void* hint);
typedef int napi_status;

// Of napi_typeof.
constexpr int kNapiUndefined = 0;
constexpr int kNapiExternal = 8;
enum NapiTypedArrayType { kNapiUint8Array = 1, kNapiInt32Array = 5, kNapiFloat32Array = 7 };
constexpr size_t kNapiAutoLength = SIZE_MAX;

#define HYBRIDSEEK_NAPI(name, ...) __attribute__((weak)) napi_status name(__VA_ARGS__)

HYBRIDSEEK_NAPI(napi_get_cb_info, napi_env, napi_callback_info, size_t* count, napi_value* arguments,
                napi_value* self, void** data);
HYBRIDSEEK_NAPI(napi_typeof, napi_env, napi_value, int* type);
HYBRIDSEEK_NAPI(napi_get_undefined, napi_env, napi_value*);
HYBRIDSEEK_NAPI(napi_get_boolean, napi_env, bool, napi_value*);
HYBRIDSEEK_NAPI(napi_create_double, napi_env, double, napi_value*);
HYBRIDSEEK_NAPI(napi_create_bigint_uint64, napi_env, uint64_t, napi_value*);
HYBRIDSEEK_NAPI(napi_create_string_utf8, napi_env, const char*, size_t length, napi_value*);
HYBRIDSEEK_NAPI(napi_create_object, napi_env, napi_value*);
HYBRIDSEEK_NAPI(napi_create_array, napi_env, napi_value*);
HYBRIDSEEK_NAPI(napi_set_element, napi_env, napi_value array, uint32_t index, napi_value);
HYBRIDSEEK_NAPI(napi_create_arraybuffer, napi_env, size_t bytes, void** data, napi_value*);
HYBRIDSEEK_NAPI(napi_create_external_arraybuffer, napi_env, void* data, size_t bytes, napi_finalize, void* hint,
                napi_value*);
HYBRIDSEEK_NAPI(napi_create_typedarray, napi_env, int type, size_t length, napi_value buffer, size_t offset,
                napi_value*);
HYBRIDSEEK_NAPI(napi_create_error, napi_env, napi_value code, napi_value message, napi_value*);
HYBRIDSEEK_NAPI(napi_throw, napi_env, napi_value);
HYBRIDSEEK_NAPI(napi_is_exception_pending, napi_env, bool*);
HYBRIDSEEK_NAPI(napi_create_external, napi_env, void*, napi_finalize, void* hint, napi_value*);
HYBRIDSEEK_NAPI(napi_get_value_external, napi_env, napi_value, void**);
HYBRIDSEEK_NAPI(napi_get_value_int64, napi_env, napi_value, int64_t*);
HYBRIDSEEK_NAPI(napi_get_value_string_utf8, napi_env, napi_value, char*, size_t size, size_t* length);
HYBRIDSEEK_NAPI(napi_get_array_length, napi_env, napi_value, uint32_t*);
HYBRIDSEEK_NAPI(napi_get_element, napi_env, napi_value, uint32_t, napi_value*);
HYBRIDSEEK_NAPI(napi_get_typedarray_info, napi_env, napi_value, int* type, size_t* length, void** data,
                napi_value* buffer, size_t* offset);
HYBRIDSEEK_NAPI(napi_set_named_property, napi_env, napi_value object, const char* name, napi_value);
HYBRIDSEEK_NAPI(napi_create_function, napi_env, const char* name, size_t length, napi_callback,
                void* data, napi_value*);
HYBRIDSEEK_NAPI(napi_create_reference, napi_env, napi_value, uint32_t count, napi_ref*);
HYBRIDSEEK_NAPI(napi_delete_reference, napi_env, napi_ref);
HYBRIDSEEK_NAPI(napi_create_promise, napi_env, napi_deferred*, napi_value*);
HYBRIDSEEK_NAPI(napi_resolve_deferred, napi_env, napi_deferred, napi_value);
HYBRIDSEEK_NAPI(napi_reject_deferred, napi_env, napi_deferred, napi_value);
HYBRIDSEEK_NAPI(napi_create_async_work, napi_env, napi_value resource, napi_value name,
                void (*execute)(napi_env, void*), void (*complete)(napi_env, napi_status, void*), void*,
                napi_async_work*);
HYBRIDSEEK_NAPI(napi_queue_async_work, napi_env, napi_async_work);
HYBRIDSEEK_NAPI(napi_delete_async_work, napi_env, napi_async_work);

#undef HYBRIDSEEK_NAPI
}
