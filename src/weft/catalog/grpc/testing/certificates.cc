#include "weft/catalog/grpc/testing/certificates.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"

namespace weft::catalog::testing {
namespace {

constexpr char kNewKey[] =
    "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

void Run(const std::string& command) {
  EXPECT_EQ(std::system((command + " 2>/dev/null").c_str()), 0) << command;
}

}  // namespace

Authority::Authority() {
  char folder[] = "/tmp/weft-ca-XXXXXX";
  EXPECT_NE(mkdtemp(folder), nullptr);
  folder_ = folder;
  Run(absl::StrCat("openssl req -x509 ", kNewKey, " -keyout ", folder_,
                   "/ca.key -out ", ca(), " -days 30 -subj '/CN=test CA'"));
}

Authority::~Authority() { std::filesystem::remove_all(folder_); }

void Authority::Sign(const std::string& name, const std::string& host,
                     int days) {
  const std::string base = folder_ + "/" + name;
  Run(absl::StrCat("openssl req ", kNewKey, " -keyout ", base, ".key -out ",
                   base, ".csr -subj '/CN=", name, "'"));
  Run(absl::StrCat("echo subjectAltName=", host, " >", base, ".ext"));
  Run(absl::StrCat("openssl x509 -req -in ", base, ".csr -CA ", ca(),
                   " -CAkey ", folder_, "/ca.key -CAcreateserial -days ", days,
                   " -extfile ", base, ".ext -out ", base, ".pem"));
}

}  // namespace weft::catalog::testing
