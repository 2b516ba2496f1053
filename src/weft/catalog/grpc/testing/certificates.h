// Certificates for tests, made by the program `openssl`.
#ifndef WEFT_CATALOG_GRPC_TESTING_CERTIFICATES_H_
#define WEFT_CATALOG_GRPC_TESTING_CERTIFICATES_H_

#include <string>

namespace weft::catalog::testing {

// An authority in a folder of its own, which goes with it.
class Authority {
 public:
  Authority();
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  std::string folder() const { return folder_; }
  std::string ca() const { return folder_ + "/ca.pem"; }
  // Signs NAME.pem with the key NAME.key for `host` ("IP:127.0.0.1",
  // "DNS:elsewhere"); days may be negative: it has expired.
  void Sign(const std::string& name, const std::string& host, int days = 30);
  std::string Cert(const std::string& name) const {
    return folder_ + "/" + name + ".pem";
  }
  std::string Key(const std::string& name) const {
    return folder_ + "/" + name + ".key";
  }

 private:
  std::string folder_;
};

}  // namespace weft::catalog::testing

#endif  // WEFT_CATALOG_GRPC_TESTING_CERTIFICATES_H_
