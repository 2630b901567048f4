// What a node SparseExperts says of itself, checked, for the kernels of all providers.
// Letters: T tokens, D hidden, E experts, F expert hidden, K chosen experts.
#pragma once

#include <optional>

#include "cpu_kernels.h"
#include "op.h"

namespace hybridseek {

enum ExpertsInput { kExpertsX, kExpertsRouter, kExpertsGateUp };

const Schema& experts_schema();

struct ExpertsNode {
  // Throws what is wrong with the node.
  explicit ExpertsNode(const NodeInfo& node);

  Tensor router;                 // f32 [E, D]
  Tensor gate_up, down;          // [held, 2F, row of D], [held, D, row of F]
  std::optional<Tensor> gate_up_scales, down_scales;
  cpu::ExpertsSizes sizes;
};

}  // namespace hybridseek
