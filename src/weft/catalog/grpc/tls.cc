#include "weft/catalog/grpc/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "weft/base/read_file.h"
#include "weft/base/status.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/grpc/tls_internal.h"

namespace weft::catalog {
namespace {

struct FreeOpenSsl {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, FreeOpenSsl>;

Owned<BIO> BytesOf(const std::string& pem) {
  return Owned<BIO>(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Empty, with a fault, if it cannot be read.
std::string ReadPem(std::string_view what, const std::string& path,
                    base::FaultList& faults) {
  absl::StatusOr<std::string> text = base::ReadFile(path);
  if (!text.ok()) {
    faults.Add(absl::StrCat(std::string(what),
                            " file: ", std::string(text.status().message())));
    return "";
  }
  if (text->empty()) {
    faults.Add(
        absl::StrCat(std::string(what), " file \"", path, "\" is empty"));
  }
  return *std::move(text);
}

std::string TimeText(const ASN1_TIME* time) {
  const Owned<BIO> out(BIO_new(BIO_s_mem()));
  ASN1_TIME_print(out.get(), time);
  char* text = nullptr;
  const long bytes = BIO_get_mem_data(out.get(), &text);
  return std::string(text, static_cast<size_t>(bytes));
}

// The first certificate of the file; nullptr, with a fault, if there is none.
Owned<X509> FirstCertificate(std::string_view what, const std::string& path,
                             const std::string& pem, base::FaultList& faults) {
  Owned<X509> certificate(
      PEM_read_bio_X509(BytesOf(pem).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate == nullptr && !pem.empty()) {
    faults.Add(absl::StrCat(std::string(what), " file \"", path,
                            "\" holds no certificate in PEM"));
  }
  return certificate;
}

void CheckAuthority(std::string_view what, const std::string& path,
                    const std::string& pem, base::FaultList& faults) {
  const auto certificate = FirstCertificate(what, path, pem, faults);
  static_cast<void>(certificate);
}

void CheckPair(const std::string& cert_file, const std::string& cert_pem,
               const std::string& key_file, const std::string& key_pem,
               base::FaultList& faults) {
  const auto certificate =
      FirstCertificate("certificate", cert_file, cert_pem, faults);
  // A key with a password would ask for it on the terminal.
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(
      BytesOf(key_pem).get(), nullptr,
      [](char*, int, int, void*) { return -1; }, nullptr));
  if (key == nullptr && !key_pem.empty()) {
    faults.Add(absl::StrCat("key file \"", key_file,
                            "\" holds no private key in PEM without a "
                            "password"));
  }
  if (certificate != nullptr) {
    const ASN1_TIME* end = X509_get0_notAfter(certificate.get());
    if (X509_cmp_current_time(end) < 0) {
      faults.Add(absl::StrCat("the certificate in \"", cert_file,
                              "\" has expired on ", TimeText(end)));
    }
    if (key != nullptr &&
        X509_check_private_key(certificate.get(), key.get()) != 1) {
      faults.Add(absl::StrCat("the key in \"", key_file,
                              "\" is not that of the certificate in \"",
                              cert_file, "\""));
    }
  }
  ERR_clear_error();
}

struct Pems {
  std::string authority;
  std::string cert;
  std::string key;
};

absl::StatusOr<Pems> ReadServerPems(const ServerTls& tls) {
  if (tls.cert_file.empty() || tls.key_file.empty()) {
    return absl::InvalidArgumentError(
        "TLS of a catalog needs both a certificate and its key "
        "(--tls-cert and --tls-key)");
  }
  base::FaultList faults;
  Pems pems;
  pems.cert = ReadPem("certificate", tls.cert_file, faults);
  pems.key = ReadPem("key", tls.key_file, faults);
  CheckPair(tls.cert_file, pems.cert, tls.key_file, pems.key, faults);
  if (!tls.client_ca_file.empty()) {
    pems.authority = ReadPem("client CA", tls.client_ca_file, faults);
    CheckAuthority("client CA", tls.client_ca_file, pems.authority, faults);
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return pems;
}

absl::StatusOr<Pems> ReadClientPems(const ClientTls& tls) {
  if (tls.cert_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError(
        "a client's certificate and its key belong together (--tls-cert and "
        "--tls-key, WEFT_TLS_CERT and WEFT_TLS_KEY): one is missing");
  }
  if (!tls.cert_file.empty() && tls.ca_file.empty()) {
    return absl::InvalidArgumentError(
        "a client's certificate is of use with TLS only: give the catalog's "
        "authority too (--tls-ca or WEFT_TLS_CA)");
  }
  Pems pems;
  if (!tls.enabled()) return pems;
  base::FaultList faults;
  pems.authority = ReadPem("CA", tls.ca_file, faults);
  CheckAuthority("CA", tls.ca_file, pems.authority, faults);
  if (!tls.cert_file.empty()) {
    pems.cert = ReadPem("certificate", tls.cert_file, faults);
    pems.key = ReadPem("key", tls.key_file, faults);
    CheckPair(tls.cert_file, pems.cert, tls.key_file, pems.key, faults);
  }
  WEFT_RETURN_IF_ERROR(faults.ToStatus(absl::StatusCode::kInvalidArgument));
  return pems;
}

}  // namespace

absl::Status CheckTls(const ServerTls& tls) {
  return tls.enabled() ? ReadServerPems(tls).status() : absl::OkStatus();
}

absl::Status CheckTls(const ClientTls& tls) {
  return ReadClientPems(tls).status();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTls& tls) {
  if (!tls.enabled()) return grpc::InsecureServerCredentials();
  WEFT_ASSIGN_OR_RETURN(Pems pems, ReadServerPems(tls));
  grpc::SslServerCredentialsOptions options(
      tls.client_ca_file.empty()
          ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = std::move(pems.authority);
  options.pem_key_cert_pairs.push_back(
      {std::move(pems.key), std::move(pems.cert)});
  return grpc::SslServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>>
MakeChannelCredentials(const ClientTls& tls) {
  WEFT_ASSIGN_OR_RETURN(Pems pems, ReadClientPems(tls));
  if (!tls.enabled()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = std::move(pems.authority);
  options.pem_private_key = std::move(pems.key);
  options.pem_cert_chain = std::move(pems.cert);
  return grpc::SslCredentials(options);
}

}  // namespace weft::catalog
