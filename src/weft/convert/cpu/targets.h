// Which instruction sets the cpu kernels were built for and this CPU has.
#ifndef WEFT_CONVERT_CPU_TARGETS_H_
#define WEFT_CONVERT_CPU_TARGETS_H_

#include <string>
#include <vector>

namespace weft::convert::cpu {

// "AVX3", "AVX2", ..., best first.
std::vector<std::string> SupportedTargetNames();

// The one that CpuKernels() uses now.
std::string ChosenTargetName();

// Makes CpuKernels() use `name`, one of SupportedTargetNames(), or the best
// when empty. Not thread-safe: for tests and benchmarks, while no kernel runs.
void UseTarget(const std::string& name);

}  // namespace weft::convert::cpu

#endif  // WEFT_CONVERT_CPU_TARGETS_H_
