// GPT-OSS checkpoints as they are published: experts in MXFP4, in place of the
// BF16 stacks that the recipe knows.
#ifndef WEFT_APPS_MXFP4_EXPERTS_H_
#define WEFT_APPS_MXFP4_EXPERTS_H_

#include <string>
#include <string_view>
#include <vector>

#include "weft/base/status.h"
#include "weft/checkpoint/safetensors.h"
#include "weft/tensor/tensor_spec.h"

namespace CLI {
class App;
}

namespace weft::apps {

enum class Mxfp4Reading {
  kPlainly,      // element after element, with an arithmetic of its own: for
                 // what judges the kernels
  kWithKernels,  // convert::CpuKernels()
  kAsBlocks,     // left as it is
};

// Declares --mxfp4, which sets `name`, that it begins with as the default.
void AddMxfp4Option(CLI::App& command, std::string& name);

// `name` is "bf16" or "blocks"; `decoded` is what "bf16" stands for.
Mxfp4Reading ParseMxfp4Reading(std::string_view name, Mxfp4Reading decoded);

// Where the checkpoint has, for a stack `name` [n, columns, rows] of `logical`,
// `name`_blocks (U8 [n, rows, columns / 32, 16]) and `name`_scales (U8 [n,
// rows, columns / 32]), puts `name` as BF16 in their place: decoded
// (convert/kernel.h) and each matrix transposed, as transformers does. A matrix
// is decoded whenever it is asked for, and not held: no more than one at a time
// takes memory beside what is made of it.
// Adds a fault for one without the other, for a wrong dtype or shape, and for
// `name` beside them; such a checkpoint is not to be read further. Does nothing
// under kAsBlocks.
void StandInForMxfp4(const std::vector<tensor::TensorSpec>& logical,
                     Mxfp4Reading reading, checkpoint::Checkpoint& checkpoint,
                     base::FaultList& faults);

}  // namespace weft::apps

#endif  // WEFT_APPS_MXFP4_EXPERTS_H_
