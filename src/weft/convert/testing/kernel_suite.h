// What every set of kernels must do, whatever it runs on. Each function makes
// gtest expectations; call it from a TEST for the kernels to be checked.
#ifndef WEFT_CONVERT_TESTING_KERNEL_SUITE_H_
#define WEFT_CONVERT_TESTING_KERNEL_SUITE_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "weft/convert/kernel.h"

namespace weft::convert::testing {

// Exactly `count`, so that a sanitizer sees every byte read beyond.
std::vector<std::byte> RandomBytes(std::mt19937_64& random, int64_t count);

// Copies without change and with casts: lengths, alignments, strides,
// transpositions, rows long enough to be streamed; nothing else is written.
void CheckContiguousCopies(const Kernels& kernels);
void CheckRandomCopies(const Kernels& kernels);
void CheckLargeCopies(const Kernels& kernels);

// The values of the casts: every bf16 and f16, and the f32 at and beside
// every rounding boundary, against a search for the nearest value.
void CheckCastsOfHalves(const Kernels& kernels);
void CheckCastsOfFloats(const Kernels& kernels);
void CheckCastsToExponents(const Kernels& kernels);

// The values of the transforms.
void CheckTransforms(const Kernels& kernels);

// Quantisation by blocks: every bf16 and f16 under many scales, f32 on and
// beside every rounding boundary, shapes and strides with nothing else
// written, what is not finite, and examples from elsewhere.
void CheckQuantisedHalves(const Kernels& kernels);
void CheckQuantisedFloats(const Kernels& kernels);
void CheckQuantisedShapes(const Kernels& kernels);
void CheckQuantisedSpecials(const Kernels& kernels);
void CheckQuantisedGolden(const Kernels& kernels);
void CheckQuantisedEdges(const Kernels& kernels);

// MXFP4: every code under every scale, lengths and alignments.
void CheckMxfp4(const Kernels& kernels);

// The digest against its formula, and what it must notice.
void CheckDigestRows(const Kernels& kernels);
void CheckDigestBands(const Kernels& kernels);
void CheckDigestAdds(const Kernels& kernels);
// `thinning`: of the changes that are many, every how manieth is tried, where a
// row is a launch.
void CheckDigestNotices(const Kernels& kernels, int thinning = 1);

}  // namespace weft::convert::testing

#endif  // WEFT_CONVERT_TESTING_KERNEL_SUITE_H_
