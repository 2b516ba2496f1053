// Runs the fuzz target's body over its corpus, as it is and damaged.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size);

namespace {

int RunInput(const std::string& bytes) {
  return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()),
                                bytes.size());
}

std::vector<std::string> ReadCorpus() {
  std::vector<std::string> inputs;
  for (const auto& entry :
       std::filesystem::directory_iterator(WEFT_FUZZ_CORPUS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file),
                        std::istreambuf_iterator<char>());
  }
  return inputs;
}

TEST(CatalogFuzzCorpusTest, EveryInputRuns) {
  const std::vector<std::string> corpus = ReadCorpus();
  ASSERT_GE(corpus.size(), 2u) << "no corpus in " << WEFT_FUZZ_CORPUS;
  for (const std::string& input : corpus) EXPECT_EQ(RunInput(input), 0);
}

TEST(CatalogFuzzCorpusTest, EveryDamagedInputRuns) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const std::string& input : ReadCorpus()) {
    for (int i = 0; i < 100 && !input.empty(); ++i) {
      std::string damaged = input;
      for (int flips = 0; flips < 3; ++flips) {
        damaged[random() % damaged.size()] = static_cast<char>(random());
      }
      if (i % 4 == 0) damaged.resize(random() % damaged.size());
      EXPECT_EQ(RunInput(damaged), 0);
    }
  }
}

}  // namespace
