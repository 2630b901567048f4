// The executor behind C, for other languages: load PTX text, launch its kernels on host memory.
//
// Functions that can fail give 0 or a pointer on success; ptx_error() has the text of the calling
// thread's last failure, and ptx_error_kind() its kind. A kernel sees memory that was made known:
// by ptx_allocate(), whose bytes count as unwritten until something writes them, or by
// ptx_add_memory(), whose bytes count as written.
#ifndef HYBRIDSEEK_PTX_H
#define HYBRIDSEEK_PTX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ptx_module ptx_module;

/// In the order of emu::ReportKind, from 1; 0 for failures of other kinds.
enum {
  PTX_OUT_OF_BOUNDS = 1,
  PTX_USE_AFTER_FREE,
  PTX_MISALIGNED,
  PTX_UNINITIALIZED,
  PTX_RACE,
  PTX_IN_FLIGHT,
  PTX_DEADLOCK,
  PTX_LIMIT,
  PTX_DIVERGENCE,
  PTX_MEMBER_MASK,
  PTX_TRAP,
  PTX_UNSUPPORTED,
};

typedef struct {
  uint64_t instruction_limit;  ///< warp instructions; 0: four billion
  uint64_t seed;               ///< not 0: a random but repeatable order of warps
  uint32_t host_threads;       ///< 0: one
  uint32_t tolerated;          ///< bit k: reports of kind k do not stop the launch
} ptx_options;

typedef struct {
  uint64_t warp_instructions;
  uint64_t tensor_instructions;
  uint64_t multiply_adds;
  uint64_t global_bytes_read;
  uint64_t global_bytes_written;
  uint64_t shared_bytes_read;
  uint64_t shared_bytes_written;
  uint64_t barriers;
  uint64_t reports;  ///< of tolerated kinds
} ptx_counters;

ptx_module* ptx_load(const char* text);
void ptx_unload(ptx_module* module);
/// `arguments` has one pointer per kernel parameter; `options` and `counters` may be null.
int ptx_launch(ptx_module* module, const char* kernel, const uint32_t grid[3],
               const uint32_t block[3], uint32_t dynamic_shared, const void* const* arguments,
               int cooperative, const ptx_options* options, ptx_counters* counters);

void* ptx_allocate(size_t bytes);
int ptx_free(void* memory);
void ptx_add_memory(const void* memory, size_t bytes, const char* name);
void ptx_remove_memory(const void* memory);
/// Says that the host wrote to allocated memory.
void ptx_mark_written(const void* memory, size_t bytes);

const char* ptx_error(void);
int ptx_error_kind(void);

#ifdef __cplusplus
}
#endif

#endif
