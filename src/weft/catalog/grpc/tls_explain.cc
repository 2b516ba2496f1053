#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "weft/catalog/grpc/messages_internal.h"
#include "weft/catalog/grpc/tls_internal.h"

namespace weft::catalog {
namespace {

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};

// A socket that does not block; -1 if nobody accepts in time.
class Dialled {
 public:
  Dialled(const std::string& host, const std::string& port,
          base::Deadline deadline) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return;
    for (const addrinfo* each = found; each != nullptr && socket_ < 0;
         each = each->ai_next) {
      Dial(*each, deadline);
    }
    freeaddrinfo(found);
  }
  ~Dialled() { Close(); }
  Dialled(const Dialled&) = delete;
  Dialled& operator=(const Dialled&) = delete;

  int socket() const { return socket_; }
  // Whether it is ready before the deadline.
  bool Await(short events, base::Deadline deadline) const {
    pollfd wait{.fd = socket_, .events = events, .revents = 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline.Remaining());
    return poll(&wait, 1, static_cast<int>(left.count())) == 1;
  }

 private:
  void Dial(const addrinfo& address, base::Deadline deadline) {
    socket_ =
        ::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                 address.ai_protocol);
    if (socket_ < 0) return;
    if (connect(socket_, address.ai_addr, address.ai_addrlen) == 0) return;
    int error = errno;
    socklen_t bytes = sizeof(error);
    if (error == EINPROGRESS && Await(POLLOUT, deadline)) {
      getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &bytes);
    }
    if (error != 0) Close();
  }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

  int socket_ = -1;
};

// What a TLS handshake with the server came to.
struct Handshake {
  bool connected = false;  // somebody accepted the connection
  bool speaks_tls = false;
  long verify_fault = X509_V_OK;   // of the server's certificate
  bool wants_certificate = false;  // the server has asked for one
  bool ends_it = false;            // and hung up after the handshake
  int alert = -1;                  // that the server sent
};

// OpenSSL over two buffers and a socket: its own writes to a socket that the
// other side has closed would end the process by SIGPIPE.
class Wire {
 public:
  Wire(SSL* ssl, const Dialled& dialled, base::Deadline deadline)
      : ssl_(ssl),
        in_(BIO_new(BIO_s_mem())),
        out_(BIO_new(BIO_s_mem())),
        dialled_(dialled),
        deadline_(deadline) {
    SSL_set_bio(ssl, in_, out_);  // which owns both from here on
  }

  // Repeats `step` until it is done; <= 0 on failure or out of time.
  template <typename Step>
  int Drive(Step step) {
    while (true) {
      ERR_clear_error();
      const int result = step();
      const int error = SSL_get_error(ssl_, result);
      if (!Flush() || result > 0 || error != SSL_ERROR_WANT_READ) return result;
      if (!Fill()) return 0;
    }
  }

 private:
  bool Flush() {
    std::array<char, 4096> bytes;
    int count = 0;
    while ((count = BIO_read(out_, bytes.data(), bytes.size())) > 0) {
      // Some hundred bytes on a new connection: they fit its buffer.
      if (send(dialled_.socket(), bytes.data(), static_cast<size_t>(count),
               MSG_NOSIGNAL) != count) {
        return false;
      }
    }
    return true;
  }
  bool Fill() {
    if (!dialled_.Await(POLLIN, deadline_)) return false;
    std::array<char, 4096> bytes;
    const ssize_t count =
        recv(dialled_.socket(), bytes.data(), bytes.size(), 0);
    if (count <= 0) return false;
    return BIO_write(in_, bytes.data(), static_cast<int>(count)) == count;
  }

  SSL* const ssl_;
  BIO* const in_;
  BIO* const out_;
  const Dialled& dialled_;
  const base::Deadline deadline_;
};

// The alert in OpenSSL's queue of errors, or -1.
int TakeAlert() {
  int alert = -1;
  while (const unsigned long error = ERR_get_error()) {
    const int reason = ERR_GET_REASON(error);
    if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason >= SSL_AD_REASON_OFFSET) {
      alert = reason - SSL_AD_REASON_OFFSET;
    }
  }
  return alert;
}

Handshake ShakeHands(const std::string& host, const std::string& port,
                     const ClientTls& tls, base::Deadline deadline) {
  Handshake result;
  const Dialled dialled(host, port, deadline);
  if (dialled.socket() < 0) return result;
  result.connected = true;
  const std::unique_ptr<SSL_CTX, FreeSsl> context(
      SSL_CTX_new(TLS_client_method()));
  if (tls.enabled()) {
    SSL_CTX_load_verify_locations(context.get(), tls.ca_file.c_str(), nullptr);
  }
  if (!tls.cert_file.empty()) {
    SSL_CTX_use_certificate_chain_file(context.get(), tls.cert_file.c_str());
    SSL_CTX_use_PrivateKey_file(context.get(), tls.key_file.c_str(),
                                SSL_FILETYPE_PEM);
  }
  const std::unique_ptr<SSL, FreeSsl> ssl(SSL_new(context.get()));
  in6_addr ignored;
  if (inet_pton(AF_INET, host.c_str(), &ignored) == 1 ||
      inet_pton(AF_INET6, host.c_str(), &ignored) == 1) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), host.c_str());
  } else {
    SSL_set_tlsext_host_name(ssl.get(), host.c_str());
    SSL_set1_host(ssl.get(), host.c_str());
  }
  // A gRPC server ends a handshake that does not ask for HTTP/2.
  static constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_set_alpn_protos(ssl.get(), kHttp2, sizeof(kHttp2));
  SSL_set_cert_cb(
      ssl.get(),
      [](SSL*, void* asked) {
        *static_cast<bool*>(asked) = true;
        return 1;
      },
      &result.wants_certificate);
  // The result is looked at below, and the server's word on our certificate
  // comes only after ours on its own.
  SSL_set_verify(ssl.get(), SSL_VERIFY_NONE, nullptr);
  Wire wire(ssl.get(), dialled, deadline);
  const int shaken = wire.Drive([&] { return SSL_connect(ssl.get()); });
  result.alert = TakeAlert();
  result.speaks_tls = shaken > 0 || result.alert >= 0;
  if (shaken <= 0) return result;
  result.verify_fault = SSL_get_verify_result(ssl.get());
  // TLS 1.3: the server judges our certificate after its end of the handshake;
  // its settings, or an alert, come first.
  char byte = 0;
  const int read = wire.Drive([&] { return SSL_read(ssl.get(), &byte, 1); });
  result.ends_it = read <= 0 && !deadline.Passed();
  result.alert = TakeAlert();
  return result;
}

// gRPC hangs up without a word, others send an alert.
absl::Status ExplainRefusal(const std::string& address, const ClientTls& tls,
                            int alert) {
  if (tls.cert_file.empty()) {
    return absl::UnauthenticatedError(absl::StrCat(
        "catalog at ", address,
        " wants a certificate of its clients: give --tls-cert and --tls-key, "
        "or WEFT_TLS_CERT and WEFT_TLS_KEY"));
  }
  const std::string alert_text =
      alert < 0 ? "" : absl::StrCat(": ", SSL_alert_desc_string_long(alert));
  return absl::UnauthenticatedError(absl::StrCat(
      "catalog at ", address, " refuses the certificate in \"", tls.cert_file,
      "\"", alert_text,
      " (is it of an authority in the catalog's --tls-client-ca, and not "
      "expired)"));
}

}  // namespace

absl::Status ExplainNoConnection(const std::string& address,
                                 const ClientTls& tls,
                                 base::Deadline deadline) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return NoCatalogAnswers(address);
  std::string host = address.substr(0, colon);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  const Handshake found =
      ShakeHands(host, address.substr(colon + 1), tls, deadline);
  ERR_clear_error();
  if (!found.connected) return NoCatalogAnswers(address);
  if (!tls.enabled()) {
    if (!found.speaks_tls) return NoCatalogAnswers(address);
    return absl::FailedPreconditionError(
        absl::StrCat("catalog at ", address,
                     " speaks TLS and this client does not: give --tls-ca or "
                     "WEFT_TLS_CA"));
  }
  if (!found.speaks_tls) {
    // A host that is too slow is no plain one.
    if (deadline.Passed()) return NoCatalogAnswers(address);
    return absl::FailedPreconditionError(absl::StrCat(
        "this client wants TLS (--tls-ca or WEFT_TLS_CA) and whatever is at ",
        address,
        " does not speak it: start the catalog with --tls-cert and --tls-key, "
        "or drop --tls-ca"));
  }
  if (found.verify_fault != X509_V_OK) {
    return absl::UnauthenticatedError(absl::StrCat(
        "the certificate of the catalog at ", address,
        " is refused: ", X509_verify_cert_error_string(found.verify_fault),
        " (authorities: ", tls.ca_file, ")"));
  }
  const bool refused = found.ends_it && found.wants_certificate;
  if (found.alert >= 0 || refused) {
    return ExplainRefusal(address, tls, found.alert);
  }
  return NoCatalogAnswers(address);
}

}  // namespace weft::catalog
