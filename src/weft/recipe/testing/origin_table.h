// For tests: where each element of a stored tensor comes from, found by walking
// every coordinate of every fragment, and how one side's rows lie in another's.
#ifndef WEFT_RECIPE_TESTING_ORIGIN_TABLE_H_
#define WEFT_RECIPE_TESTING_ORIGIN_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "weft/layout/stored_tensor.h"
#include "weft/recipe/recipe.h"

namespace weft::recipe::testing {

// Element (row, column) of a logical tensor; column -1 for rank 1. Tensor
// "zero" is padding.
struct Origin {
  std::string tensor;
  int64_t row = -1;
  int64_t column = -1;
  friend bool operator==(const Origin&, const Origin&) = default;
  friend auto operator<=>(const Origin&, const Origin&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Origin& origin) {
    return out << origin.tensor << "(" << origin.row << "," << origin.column
               << ")";
  }
};

inline Origin Zero() { return {"zero", -1, -1}; }

inline const layout::StoredTensor* FindStored(const RankLayout& layout,
                                              const std::string& name) {
  for (const layout::StoredTensor& stored : layout.stored) {
    if (stored.name == name) return &stored;
  }
  return nullptr;
}

inline int64_t ColumnsOf(const layout::StoredTensor& stored) {
  return stored.shape.size() < 2 ? 1 : stored.shape[1];
}

// Calls `visit` with each coordinate of the box, last dimension fastest.
inline void Walk(
    const tensor::Box& box,
    const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (box.empty()) return;
  std::vector<int64_t> x;
  for (const tensor::Range& range : box.ranges()) x.push_back(range.begin);
  while (true) {
    visit(x);
    int dim = box.rank() - 1;
    while (dim >= 0 && ++x[dim] == box.range(dim).end) {
      x[dim] = box.range(dim).begin;
      --dim;
    }
    if (dim < 0) return;
  }
}

// The origin of each element in memory order. Fails the test on an element
// that is written twice or never, or outside of the tensor.
inline std::vector<Origin> OriginsOf(const RankLayout& layout,
                                     const layout::StoredTensor& stored) {
  int64_t num_elements = 1;
  for (const int64_t extent : stored.shape) num_elements *= extent;
  std::vector<Origin> origins(num_elements);
  const auto put = [&](int64_t at, Origin origin) {
    ASSERT_GE(at, 0) << stored.name;
    ASSERT_LT(at, num_elements) << stored.name;
    EXPECT_EQ(origins[at].tensor, "")
        << stored.name << " writes " << at << " twice";
    origins[at] = std::move(origin);
  };
  for (const layout::Fragment& fragment : stored.fragments) {
    const std::string& name = layout.tensors.at(fragment.tensor).name;
    Walk(fragment.map.box(), [&](const std::vector<int64_t>& x) {
      put(fragment.map.OffsetOf(x), {name, x[0], x.size() > 1 ? x[1] : -1});
    });
  }
  for (const tensor::Box& box : stored.zero_fill) {
    Walk(box, [&](const std::vector<int64_t>& x) {
      put(x.size() > 1 ? x[0] * stored.shape[1] + x[1] : x[0], Zero());
    });
  }
  for (const Origin& origin : origins) {
    EXPECT_NE(origin.tensor, "") << stored.name << " has a hole";
    if (origin.tensor.empty()) break;
  }
  return origins;
}

// "q[0..3] k[0..1] 0*14": runs of rows that follow each other. `row_of` says
// what row of what each row of the tensor is.
using LabelledRow = std::pair<std::string, int64_t>;
inline std::string JoinRows(const std::vector<LabelledRow>& rows) {
  std::string text;
  for (std::size_t i = 0; i < rows.size();) {
    std::size_t j = i + 1;
    const bool is_zero = rows[i].first == "0";
    while (j < rows.size() && rows[j].first == rows[i].first &&
           (is_zero ||
            rows[j].second == rows[i].second + static_cast<int64_t>(j - i))) {
      ++j;
    }
    absl::StrAppend(&text, text.empty() ? "" : " ");
    if (is_zero) {
      absl::StrAppend(&text, "0*", j - i);
    } else if (j - i == 1) {
      absl::StrAppend(&text, rows[i].first, "[", rows[i].second, "]");
    } else {
      absl::StrAppend(&text, rows[i].first, "[", rows[i].second, "..",
                      rows[j - 1].second, "]");
    }
    i = j;
  }
  return text;
}

// Rows of one stored tensor under short names, e.g. "q" for every tensor whose
// name contains "q_proj".
inline std::string RowsOf(const RankLayout& layout, const std::string& name,
                          const std::map<std::string, std::string>& labels) {
  const layout::StoredTensor* const stored = FindStored(layout, name);
  if (stored == nullptr) return "absent";
  const std::vector<Origin> origins = OriginsOf(layout, *stored);
  const int64_t columns = ColumnsOf(*stored);
  std::vector<LabelledRow> rows;
  for (std::size_t i = 0; i < origins.size(); i += columns) {
    std::string label = origins[i].tensor == "zero" ? "0" : origins[i].tensor;
    for (const auto& [part, text] : labels) {
      if (origins[i].tensor.find(part) != std::string::npos) label = text;
    }
    rows.emplace_back(label, origins[i].row);
  }
  return JoinRows(rows);
}

// Where each element of a source rank lies: (rank, element offset).
using Whereabouts = std::map<Origin, std::pair<int64_t, int64_t>>;
inline Whereabouts Locate(const std::vector<RankLayout>& sources,
                          const std::vector<std::string>& names) {
  Whereabouts where;
  for (const RankLayout& source : sources) {
    for (const std::string& name : names) {
      const layout::StoredTensor* const stored = FindStored(source, name);
      if (stored == nullptr) continue;
      const std::vector<Origin> origins = OriginsOf(source, *stored);
      for (std::size_t i = 0; i < origins.size(); ++i) {
        where.emplace(origins[i], std::pair(source.rank, i));
      }
    }
  }
  return where;
}

// The destination's rows as rows of the sources: "M0[0..3] M1[0..3]".
inline std::string ComposeRows(const RankLayout& target,
                               const std::string& name,
                               const Whereabouts& where,
                               const std::string& label) {
  const layout::StoredTensor* const stored = FindStored(target, name);
  if (stored == nullptr) return "absent";
  const std::vector<Origin> origins = OriginsOf(target, *stored);
  const int64_t columns = ColumnsOf(*stored);
  std::vector<LabelledRow> rows;
  for (std::size_t i = 0; i < origins.size(); i += columns) {
    if (origins[i] == Zero()) {
      rows.emplace_back("0", -1);
      continue;
    }
    const auto found = where.find(origins[i]);
    if (found == where.end()) {
      rows.emplace_back("nowhere", -1);
      continue;
    }
    const auto [rank, offset] = found->second;
    rows.emplace_back(absl::StrCat(label, rank), offset / columns);
  }
  return JoinRows(rows);
}

// Byte runs "(dst,M0 src,length)" for elements of two bytes.
inline std::string ComposeBytes(const RankLayout& target,
                                const std::string& name,
                                const Whereabouts& where,
                                const std::string& label) {
  const layout::StoredTensor* const stored = FindStored(target, name);
  if (stored == nullptr) return "absent";
  const std::vector<Origin> origins = OriginsOf(target, *stored);
  const auto at = [&](std::size_t i) { return where.at(origins[i]); };
  std::string text;
  for (std::size_t i = 0; i < origins.size();) {
    std::size_t j = i + 1;
    while (j < origins.size() && at(j).first == at(i).first &&
           at(j).second == at(i).second + static_cast<int64_t>(j - i)) {
      ++j;
    }
    absl::StrAppend(&text, text.empty() ? "" : " ", "(", 2 * i, ",", label,
                    at(i).first, " ", 2 * at(i).second, ",", 2 * (j - i), ")");
    i = j;
  }
  return text;
}

}  // namespace weft::recipe::testing

#endif  // WEFT_RECIPE_TESTING_ORIGIN_TABLE_H_
