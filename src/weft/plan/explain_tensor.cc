#include "weft/plan/explain_tensor.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "weft/base/status.h"
#include "weft/tensor/dtype.h"

namespace weft::plan {
namespace {

constexpr size_t kMaxListedNames = 8;

const manifest::Placement* SourceOf(const SourceIndex& sources, int64_t rank) {
  for (const SourceInfo& source : sources.sources()) {
    if (source.placement->rank == rank) return source.placement;
  }
  return nullptr;
}

TensorPart PartOf(const CompactPlan& plan, const manifest::Placement& target,
                  const manifest::Placement& source, const PeerPlan& peer,
                  const Move& move) {
  TensorPart part;
  part.dst_rank = plan.target_rank;
  part.dst_stored = target.stored[move.dst_stored].name;
  part.logical = target.tensors[move.tensor].name;
  part.box = move.box;
  part.src_rank = peer.src_rank;
  part.src_stored = source.stored[move.src_stored].name;
  part.dst_index = move.dst_stored;
  part.src_index = move.src_stored;
  part.conversion = move.conversion;
  part.bytes = move.box.num_elements() * tensor::ItemBytes(move.conversion.to);
  const int64_t item = tensor::ItemBytes(move.conversion.from);
  for (const layout::Run& run : move.runs) {
    const int64_t bytes = run.contiguous_elements() * item;
    part.contiguous_bytes =
        part.num_runs == 0 ? bytes : std::min(part.contiguous_bytes, bytes);
    ++part.num_runs;
  }
  return part;
}

TensorPart ZerosOf(const CompactPlan& plan, const manifest::Placement& target,
                   const ZeroFill& fill) {
  const layout::StoredTensor& stored = target.stored[fill.dst_stored];
  TensorPart part;
  part.dst_rank = plan.target_rank;
  part.dst_stored = stored.name;
  part.dst_index = fill.dst_stored;
  part.box = fill.box;
  part.conversion = {stored.dtype, stored.dtype};
  part.bytes = fill.box.num_elements() * tensor::ItemBytes(stored.dtype);
  return part;
}

// Names that share the most with what was asked for.
absl::Status NotFound(const std::vector<manifest::Placement>& targets,
                      std::string_view name) {
  std::set<std::string> names;
  for (const manifest::Placement& target : targets) {
    for (const auto& tensor : target.tensors) names.insert(tensor.name);
    for (const auto& stored : target.stored) names.insert(stored.name);
  }
  const auto common_end = [name](const std::string& other) {
    size_t n = 0;
    while (n < name.size() && n < other.size() &&
           name[name.size() - 1 - n] == other[other.size() - 1 - n]) {
      ++n;
    }
    return n;
  };
  std::vector<std::string> near(names.begin(), names.end());
  const auto nearness = [&](const std::string& other) {
    // Who writes "q_proj" means those that have it, wherever.
    const bool contains =
        !name.empty() && other.find(name) != std::string::npos;
    return std::pair(contains, common_end(other));
  };
  std::stable_sort(near.begin(), near.end(),
                   [&](const std::string& a, const std::string& b) {
                     return nearness(a) > nearness(b);
                   });
  const size_t listed = std::min(near.size(), kMaxListedNames);
  near.resize(listed);
  return absl::NotFoundError(absl::StrCat(
      "no tensor \"", std::string(name), "\" in these layouts; there are ",
      names.size(), ", for example \"", absl::StrJoin(near, "\", \""), "\""));
}

// ---- the picture ------------------------------------------------------------

constexpr int kPanelWidth = 360;
constexpr int kPanelHeight = 480;
constexpr int kMargin = 30;
constexpr int kTop = 56;
constexpr int kMinLabelHeight = 12;
constexpr size_t kMaxNotesInBox = 4;

// Colours far from each other for neighbouring ranks.
std::string ColourOf(int64_t rank) {
  return absl::StrCat("hsl(", rank * 137 % 360, ",62%,", 58 + rank % 3 * 8,
                      "%)");
}

// Rows and columns of a box when leading dimensions are unrolled: a list of
// row ranges, and the range of columns.
struct Unrolled {
  std::vector<tensor::Range> rows;
  tensor::Range cols;
};

Unrolled Unroll(const tensor::Shape& shape, const tensor::Box& box) {
  const int rank = box.rank();
  if (rank == 0) return {{{0, 1}}, {0, 1}};
  if (rank == 1) return {{{0, 1}}, box.range(0)};
  Unrolled result{{box.range(rank - 2)}, box.range(rank - 1)};
  int64_t inner = shape[rank - 2];
  for (int d = rank - 3; d >= 0; --d) {
    std::vector<tensor::Range> rows;
    for (int64_t i = box.range(d).begin; i < box.range(d).end; ++i) {
      for (const tensor::Range& row : result.rows) {
        const tensor::Range moved = {row.begin + i * inner,
                                     row.end + i * inner};
        if (!rows.empty() && rows.back().end == moved.begin) {
          rows.back().end = moved.end;
        } else {
          rows.push_back(moved);
        }
      }
    }
    result.rows = std::move(rows);
    inner *= shape[d];
  }
  return result;
}

class Picture {
 public:
  explicit Picture(const tensor::Shape& shape) : shape_(shape) {
    const int rank = static_cast<int>(shape.size());
    num_cols_ = rank == 0 ? 1 : shape[rank - 1];
    num_rows_ = 1;
    for (int d = 0; d + 1 < rank; ++d) num_rows_ *= shape[d];
  }

  void Title(std::string_view text, int x, int y) {
    absl::StrAppend(&body_, "<text x='", x, "' y='", y, "'>",
                    EscapedForMarkup(text), "</text>\n");
  }

  void Add(int panel, const tensor::Box& box, int64_t colour_rank,
           std::string_view label, std::string_view detail) {
    const Unrolled parts = Unroll(shape_, box);
    for (const tensor::Range& rows : parts.rows) {
      const double x =
          Left(panel) + Scale(parts.cols.begin, num_cols_, kPanelWidth);
      const double y = kTop + Scale(rows.begin, num_rows_, kPanelHeight);
      const double width = Scale(parts.cols.extent(), num_cols_, kPanelWidth);
      const double height = Scale(rows.extent(), num_rows_, kPanelHeight);
      absl::StrAppend(&body_, "<rect x='", x, "' y='", y, "' width='", width,
                      "' height='", height, "' fill='", ColourOf(colour_rank),
                      "'><title>", EscapedForMarkup(detail),
                      "</title></rect>\n");
      if (height < kMinLabelHeight) continue;
      absl::StrAppend(&body_, "<text x='", x + 4, "' y='", y + 11,
                      "' class='label'>", EscapedForMarkup(label), "</text>\n");
    }
  }

  std::string Svg() const {
    const int width = 2 * kPanelWidth + 3 * kMargin;
    const int height = kTop + kPanelHeight + kMargin;
    return absl::StrCat(
        "<svg xmlns='http://www.w3.org/2000/svg' width='", width, "' height='",
        height, "' viewBox='0 0 ", width, " ", height,
        "' font-family='sans-serif' font-size='13'>\n"
        "<style>rect{stroke:#222;stroke-width:.6}.label{font-size:10px}"
        "</style>\n<rect width='100%' height='100%' fill='white' "
        "stroke='none'/>\n",
        body_, "</svg>\n");
  }

  static int Left(int panel) {
    return kMargin + panel * (kPanelWidth + kMargin);
  }

 private:
  static double Scale(int64_t value, int64_t whole, int pixels) {
    return whole == 0 ? 0
                      : static_cast<double>(value) * pixels /
                            static_cast<double>(whole);
  }

  const tensor::Shape& shape_;
  int64_t num_rows_ = 1;
  int64_t num_cols_ = 1;
  std::string body_;
};

// All that is to be said of one box: who holds it, or who takes it from whom.
// The first rank gives the colour.
struct BoxNotes {
  tensor::Box box;
  int64_t colour_rank = 0;
  std::vector<std::string> notes;
};

void AddNote(std::vector<BoxNotes>& all, const tensor::Box& box, int64_t rank,
             std::string note) {
  const auto same = std::find_if(all.begin(), all.end(), [&](const auto& each) {
    return each.box == box;
  });
  if (same == all.end()) {
    all.push_back({box, rank, {std::move(note)}});
  } else if (same->notes.back() != note) {
    same->notes.push_back(std::move(note));
  }
}

void DrawNotes(const std::vector<BoxNotes>& all, int panel, Picture& picture) {
  for (const BoxNotes& each : all) {
    std::vector<std::string> shown = each.notes;
    shown.resize(std::min(shown.size(), kMaxNotesInBox));
    std::string label = absl::StrJoin(shown, ", ");
    if (each.notes.size() > shown.size()) {
      absl::StrAppend(&label, " and ", each.notes.size() - shown.size(),
                      " more");
    }
    picture.Add(panel, each.box, each.colour_rank, label,
                absl::StrCat(each.box.ToString(), ": ",
                             absl::StrJoin(each.notes, ", ")));
  }
}

std::vector<BoxNotes> HoldersOf(const SourceIndex& sources,
                                std::string_view name) {
  std::vector<BoxNotes> holders;
  for (const SourceInfo& source : sources.sources()) {
    const manifest::Placement& placement = *source.placement;
    for (const layout::StoredTensor& stored : placement.stored) {
      for (const layout::Fragment& fragment : stored.fragments) {
        const tensor::Box& box = fragment.map.box();
        if (placement.tensors[fragment.tensor].name != name || box.empty()) {
          continue;
        }
        AddNote(holders, box, placement.rank, absl::StrCat(placement.rank));
      }
    }
  }
  return holders;
}

const tensor::TensorSpec* FindLogical(
    const std::vector<manifest::Placement>& targets, std::string_view name) {
  for (const manifest::Placement& target : targets) {
    for (const tensor::TensorSpec& tensor : target.tensors) {
      if (tensor.name == name) return &tensor;
    }
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::vector<TensorPart>> ExplainTensor(
    const std::vector<CompactPlan>& plans,
    const std::vector<manifest::Placement>& targets, const SourceIndex& sources,
    std::string_view name) {
  std::vector<TensorPart> parts;
  for (size_t i = 0; i < plans.size(); ++i) {
    const CompactPlan& plan = plans[i];
    std::vector<MoveSeries> wanted;
    for (const MoveSeries& series : plan.series) {
      if (targets[i].tensors[series.tensor].name == name ||
          targets[i].stored[series.dst_stored].name == name) {
        wanted.push_back(series);
      }
    }
    WEFT_ASSIGN_OR_RETURN(const std::vector<PeerPlan> peers,
                          ExpandSeries(wanted, sources, targets[i], {}));
    for (const PeerPlan& peer : peers) {
      const manifest::Placement* source = SourceOf(sources, peer.src_rank);
      for (const Move& move : peer.moves) {
        parts.push_back(PartOf(plan, targets[i], *source, peer, move));
      }
    }
    for (const ZeroFill& fill : plan.zero_fills) {
      if (targets[i].stored[fill.dst_stored].name == name) {
        parts.push_back(ZerosOf(plan, targets[i], fill));
      }
    }
  }
  if (parts.empty()) return NotFound(targets, name);
  return parts;
}

absl::StatusOr<std::string> DrawTensor(
    const std::vector<TensorPart>& parts,
    const std::vector<manifest::Placement>& targets, const SourceIndex& sources,
    std::string_view name) {
  const tensor::TensorSpec* const logical = FindLogical(targets, name);
  if (logical == nullptr) {
    std::set<std::string> held;
    for (const TensorPart& part : parts) {
      if (!part.logical.empty()) held.insert(part.logical);
    }
    if (held.empty()) return NotFound(targets, name);
    const bool has_more = held.size() > kMaxListedNames;
    if (has_more)
      held.erase(std::next(held.begin(), kMaxListedNames), held.end());
    return absl::NotFoundError(absl::StrCat(
        "\"", std::string(name),
        "\" is a tensor of the engine, and a picture is of one of the "
        "checkpoint; it holds \"",
        absl::StrJoin(held, "\", \""), has_more ? "\" and more" : "\""));
  }
  Picture picture(logical->shape);
  picture.Title(
      absl::StrCat(logical->name, " [", absl::StrJoin(logical->shape, ", "),
                   "] ", std::string(tensor::DTypeName(logical->dtype))),
      kMargin, 20);
  picture.Title("trainer ranks that hold it", Picture::Left(0), 44);
  picture.Title("engine ranks <- the trainer rank they read", Picture::Left(1),
                44);
  DrawNotes(HoldersOf(sources, name), 0, picture);
  std::vector<BoxNotes> takers;
  for (const TensorPart& part : parts) {
    AddNote(takers, part.box, part.src_rank,
            absl::StrCat(part.dst_rank, " <- ", part.src_rank));
  }
  DrawNotes(takers, 1, picture);
  return picture.Svg();
}

std::string EscapedForMarkup(std::string_view text) {
  return absl::StrReplaceAll(std::string(text),
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

}  // namespace weft::plan
