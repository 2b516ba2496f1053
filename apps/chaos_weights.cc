#include "chaos_weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fragment_rows.h"
#include "weft/base/status.h"
#include "weft/session/rank_placement.h"

namespace weft::apps {
namespace {

constexpr char kConfig[] = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
  "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
  "vocab_size": 320, "tie_word_embeddings": false, "rms_norm_eps": 1e-06,
  "torch_dtype": "bfloat16"
})";

// In 32 bits, which wrap; only the lower 16 count.
constexpr uint32_t kStride = 40503;
// kStride * Inverse() = 1 modulo 2^16: each round doubles the right bits.
constexpr uint32_t Inverse() {
  uint32_t inverse = 1;
  for (int i = 0; i < 4; ++i) inverse *= 2 - kStride * inverse;
  return inverse;
}
static_assert(static_cast<uint16_t>(kStride * Inverse()) == 1);

uint64_t HashOfName(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3u;
  }
  return hash;
}

uint16_t Base(uint64_t name_hash, int64_t index) {
  uint64_t z = name_hash + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 31)) * 0xD6E8FEB86659FD93u;
  return static_cast<uint16_t>(z >> 48);
}

// visit(base bits, address) for every element of stored tensor `index`.
template <typename Visit>
void ForEachElement(const manifest::Placement& placement,
                    const session::RankMemory& memory, size_t index,
                    Visit visit) {
  std::byte* const base = session::StoredBase(memory, index);
  for (const layout::Fragment& fragment : placement.stored[index].fragments) {
    const tensor::TensorSpec& logical =
        placement.tensors[static_cast<size_t>(fragment.tensor)];
    const uint64_t hash = HashOfName(logical.name);
    ForEachRow(fragment.map, logical.shape, [&](const FragmentRow& row) {
      for (int64_t k = 0; k < row.num_elements; ++k) {
        visit(Base(hash, row.logical_begin + k),
              base + 2 * (row.stored_begin + k * row.stored_stride));
      }
    });
  }
}

}  // namespace

absl::StatusOr<manifest::Placement> ChaosPlacement(const std::string& layout,
                                                   int64_t rank) {
  WEFT_ASSIGN_OR_RETURN(const recipe::LayoutSpec spec,
                        recipe::ParseLayoutSpec(layout));
  WEFT_ASSIGN_OR_RETURN(const recipe::ModelConfig config,
                        recipe::ParseModelConfig(kConfig));
  WEFT_ASSIGN_OR_RETURN(const recipe::RecipeBook book,
                        recipe::RecipeBook::Load(""));
  WEFT_ASSIGN_OR_RETURN(const recipe::Recipe* recipe,
                        book.Find(config.architecture));
  WEFT_ASSIGN_OR_RETURN(const std::vector<tensor::TensorSpec> logical,
                        recipe->LogicalTensors(config));
  WEFT_ASSIGN_OR_RETURN(recipe::RankLayout held,
                        recipe->Layout(config, spec, rank, logical));
  manifest::Placement placement = session::ToPlacement(std::move(held));
  for (const layout::StoredTensor& stored : placement.stored) {
    if (tensor::ItemBytes(stored.dtype) != 2) {
      return absl::InternalError(absl::StrCat(
          "stored tensor \"", stored.name, "\" of ", layout, " holds ",
          std::string(tensor::DTypeName(stored.dtype)), ", not 16 bits"));
    }
  }
  return placement;
}

void WriteChaosWeights(const manifest::Placement& placement,
                       const session::RankMemory& memory, uint64_t step,
                       size_t first, size_t last) {
  const auto change = static_cast<uint16_t>(step * kStride);
  for (size_t i = first; i < last; ++i) {
    ForEachElement(placement, memory, i, [&](uint16_t base, std::byte* to) {
      const auto bits = static_cast<uint16_t>(base + change);
      std::memcpy(to, &bits, sizeof(bits));
    });
  }
}

StepCounts CountChaosSteps(const manifest::Placement& placement,
                           const session::RankMemory& memory) {
  StepCounts counts;
  for (size_t i = 0; i < placement.stored.size(); ++i) {
    ForEachElement(
        placement, memory, i, [&](uint16_t base, const std::byte* at) {
          uint16_t bits = 0;
          std::memcpy(&bits, at, sizeof(bits));
          ++counts[static_cast<uint16_t>(Inverse() * (uint32_t{bits} - base))];
        });
  }
  return counts;
}

absl::StatusOr<std::unique_ptr<SharedRankFile>> SharedRankFile::Open(
    const std::string& path, const manifest::Placement& placement,
    bool create) {
  // For the places of the stored tensors.
  WEFT_ASSIGN_OR_RETURN(
      const session::OwnedRankMemory laid_out,
      session::AllocateFor(placement, memory::MemoryKind::kHost));
  const auto size = static_cast<size_t>(laid_out.buffer->size_bytes());
  std::unique_ptr<SharedRankFile> file(new SharedRankFile);
  const int fd =
      open(path.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
  void* base = MAP_FAILED;
  if (fd >= 0 && (!create || ftruncate(fd, static_cast<off_t>(size)) == 0)) {
    base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  const int error = errno;
  if (fd >= 0) close(fd);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot map ", size, " bytes of ", path, ": ", std::strerror(error)));
  }
  file->bytes_ = {static_cast<std::byte*>(base), size};
  if (create) std::memset(base, 0xA5, size);
  file->memory_ = laid_out.memory;
  file->memory_.areas[0] = {file->bytes_, nullptr};
  return file;
}

SharedRankFile::~SharedRankFile() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

}  // namespace weft::apps
