#include "mxfp4_experts.h"

#include <CLI/CLI.hpp>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "scalar_cast.h"
#include "weft/convert/kernel.h"

namespace weft::apps {
namespace {

constexpr int64_t kBlockElements = 32;  // under one scale
constexpr int64_t kBlockBytes = 16;

// One matrix of a stack: blocks [rows, row_blocks, 16] and scales
// [rows, row_blocks] become BF16 [row_blocks * 32, rows].
struct Matrix {
  const std::byte* blocks = nullptr;
  const std::byte* scales = nullptr;
  int64_t rows = 0;
  int64_t row_blocks = 0;
  std::byte* out = nullptr;

  int64_t columns() const { return row_blocks * kBlockElements; }
  int64_t out_bytes() const { return rows * columns() * 2; }
};

// BF16 bits by scale and code.
using PlainTable = std::array<std::array<uint16_t, 16>, 256>;

PlainTable MakePlainTable() {
  constexpr float kMagnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  PlainTable table;
  for (std::size_t scale = 0; scale < table.size(); ++scale) {
    for (std::size_t code = 0; code < table[scale].size(); ++code) {
      const float magnitude =
          std::ldexp(kMagnitudes[code % 8], static_cast<int>(scale) - 127);
      const float value = code < 8 ? magnitude : -magnitude;
      table[scale][code] = static_cast<uint16_t>(
          CastBits({tensor::DType::kF32, tensor::DType::kBF16},
                   std::bit_cast<uint32_t>(value)));
    }
  }
  return table;
}

void DecodePlainly(const Matrix& matrix) {
  static const PlainTable table = MakePlainTable();
  std::byte* out = matrix.out;
  for (int64_t column = 0; column < matrix.columns(); ++column) {
    for (int64_t row = 0; row < matrix.rows; ++row, out += 2) {
      const auto byte = static_cast<std::size_t>(
          matrix.blocks[(row * matrix.columns() + column) / 2]);
      const auto scale = static_cast<std::size_t>(
          matrix.scales[row * matrix.row_blocks + column / kBlockElements]);
      // The lower half of a byte comes first.
      const std::size_t code = column % 2 == 0 ? byte % 16 : byte / 16;
      std::memcpy(out, &table[scale][code], 2);
    }
  }
}

// `scratch` has as many bytes as the result.
void DecodeWithKernels(const Matrix& matrix, std::byte* scratch) {
  const convert::Kernels& kernels = convert::CpuKernels();
  kernels.DequantiseMxfp4(
      {matrix.blocks, matrix.scales, matrix.rows * matrix.row_blocks, scratch});
  convert::StridedCopy copy;
  copy.src = scratch;
  copy.dst = matrix.out;
  copy.modes = {{matrix.columns(), 2, 2 * matrix.rows},
                {matrix.rows, 2 * matrix.columns(), 2}};
  copy.conversion = {tensor::DType::kBF16, tensor::DType::kBF16};
  kernels.Copy(copy);
}

// Matrix `index` of the BF16 stack `shape`, of `blocks` and `scales` of the
// right sizes.
std::vector<std::byte> DecodeEntry(const tensor::Shape& shape, int64_t index,
                                   absl::Span<const std::byte> blocks,
                                   absl::Span<const std::byte> scales,
                                   Mxfp4Reading reading) {
  Matrix matrix{nullptr, nullptr, shape[2], shape[1] / kBlockElements, nullptr};
  const int64_t first_block = index * matrix.rows * matrix.row_blocks;
  matrix.blocks = blocks.data() + first_block * kBlockBytes;
  matrix.scales = scales.data() + first_block;
  const auto bytes = static_cast<std::size_t>(matrix.out_bytes());
  std::vector<std::byte> entry(bytes);
  matrix.out = entry.data();
  if (reading == Mxfp4Reading::kWithKernels) {
    std::vector<std::byte> scratch(bytes);
    DecodeWithKernels(matrix, scratch.data());
  } else {
    DecodePlainly(matrix);
  }
  return entry;
}

std::string Describe(const tensor::TensorSpec& spec) {
  return absl::StrCat(std::string(tensor::DTypeName(spec.dtype)),
                      tensor::ShapeToString(spec.shape));
}

void CheckPart(const tensor::TensorSpec& wanted,
               const checkpoint::Checkpoint& files, const std::string& partner,
               base::FaultList& faults) {
  const absl::StatusOr<tensor::TensorSpec> found = files.Spec(wanted.name);
  if (!found.ok()) {
    faults.Add(absl::StrCat("tensor \"", partner, "\" has no \"", wanted.name,
                            "\" beside it"));
  } else if (!(*found == wanted)) {
    faults.Add(absl::StrCat("tensor \"", wanted.name, "\" is ",
                            Describe(*found), ", but the config gives ",
                            Describe(wanted)));
  }
}

// `stack` is there as blocks or scales or both.
void CheckPair(const tensor::TensorSpec& stack,
               const checkpoint::Checkpoint& files, base::FaultList& faults) {
  const std::string blocks = stack.name + "_blocks";
  const std::string scales = stack.name + "_scales";
  const tensor::Shape& shape = stack.shape;
  if (files.Spec(stack.name).ok()) {
    faults.Add(absl::StrCat("tensor \"", stack.name,
                            "\" is there twice, also in MXFP4 as \"",
                            files.Spec(blocks).ok() ? blocks : scales, "\""));
  }
  if (shape[1] % kBlockElements != 0) {
    faults.Add(absl::StrCat("tensor \"", stack.name, "\" of shape ",
                            tensor::ShapeToString(shape),
                            " cannot be MXFP4: its blocks of ", kBlockElements,
                            " do not divide ", shape[1]));
    return;
  }
  const int64_t row_blocks = shape[1] / kBlockElements;
  CheckPart({blocks,
             tensor::DType::kU8,
             {shape[0], shape[2], row_blocks, kBlockBytes}},
            files, scales, faults);
  CheckPart({scales, tensor::DType::kU8, {shape[0], shape[2], row_blocks}},
            files, blocks, faults);
}

}  // namespace

void AddMxfp4Option(CLI::App& command, std::string& name) {
  command
      .add_option("--mxfp4", name,
                  "read experts in MXFP4 as bf16, or as blocks (of hf)")
      ->check(CLI::IsMember({"bf16", "blocks"}))
      ->capture_default_str();
}

Mxfp4Reading ParseMxfp4Reading(std::string_view name, Mxfp4Reading decoded) {
  return name == "blocks" ? Mxfp4Reading::kAsBlocks : decoded;
}

void StandInForMxfp4(const std::vector<tensor::TensorSpec>& logical,
                     Mxfp4Reading reading, checkpoint::Checkpoint& checkpoint,
                     base::FaultList& faults) {
  if (reading == Mxfp4Reading::kAsBlocks) return;
  const auto files = std::make_shared<const checkpoint::Checkpoint>(checkpoint);
  for (const tensor::TensorSpec& stack : logical) {
    if (stack.shape.size() != 3) continue;
    const std::string blocks = stack.name + "_blocks";
    const std::string scales = stack.name + "_scales";
    if (!files->Spec(blocks).ok() && !files->Spec(scales).ok()) continue;
    CheckPair(stack, *files, faults);
    // Also with a fault, which is then the only one about this stack.
    checkpoint.Substitute(
        {stack.name, tensor::DType::kBF16, stack.shape}, {blocks, scales},
        [files, blocks, scales, shape = stack.shape, reading](int64_t index) {
          return DecodeEntry(shape, index, *files->Data(blocks),
                             *files->Data(scales), reading);
        });
  }
}

}  // namespace weft::apps
