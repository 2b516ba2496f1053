// TLS, tokens, limits and the audit log over real connections.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "catalog.pb.h"
#include "weft/catalog/grpc/catalog_server.h"
#include "weft/catalog/grpc/grpc_client.h"
#include "weft/catalog/grpc/testing/certificates.h"
#include "weft/catalog/memory/memory_store.h"
#include "weft/catalog/testing/conformance.h"

namespace weft::catalog {
namespace {

using ::absl::StatusCode;
using ::testing::AllOf;
using testing::Authority;
using ::testing::HasSubstr;
using testing::Join;
using testing::kModel;
using ::testing::Not;
using testing::PublisherInfo;
using testing::ReceiverInfo;
using testing::Soon;
using testing::Version;

constexpr char kTrainer[] = "token-of-a-trainer";
constexpr char kRival[] = "token-of-its-rival";
constexpr char kEngine[] = "token-of-an-engine";
constexpr char kOther[] = "token-of-another-engine";
constexpr char kViewer[] = "token-of-a-viewer";
constexpr char kPerson[] = "token-of-a-person";

class SecureServerTest : public ::testing::Test {
 protected:
  // Making keys takes a while: once for all.
  static void SetUpTestSuite() {
    authority_ = new Authority();
    authority_->Sign("catalog", "IP:127.0.0.1");
    authority_->Sign("engine", "DNS:engine");
    authority_->Sign("expired", "IP:127.0.0.1", -1);
    authority_->Sign("elsewhere", "DNS:elsewhere");
    stranger_ = new Authority();
    stranger_->Sign("engine", "DNS:engine");
  }
  static void TearDownTestSuite() {
    delete std::exchange(authority_, nullptr);
    delete std::exchange(stranger_, nullptr);
  }

  static ServerTls Tls(const std::string& name = "catalog") {
    return {.cert_file = authority_->Cert(name),
            .key_file = authority_->Key(name)};
  }
  static ClientTls Trusting() { return {.ca_file = authority_->ca()}; }
  static ClientTls Showing(const Authority& by, const std::string& name) {
    return {.ca_file = authority_->ca(),
            .cert_file = by.Cert(name),
            .key_file = by.Key(name)};
  }

  void Serve(const CatalogServerOptions& options) {
    server_.reset();
    store_ = MakeMemoryStore();
    auto server = CatalogServer::Start("127.0.0.1:0", store_.get(), options);
    ASSERT_EQ(server.status(), absl::OkStatus());
    server_ = *std::move(server);
  }
  // Tokens without TLS: what they allow is the same.
  void ServeTokens() {
    token_file_ = authority_->folder() + "/tokens";
    WriteTokens(absl::StrCat("publish trainer ", kTrainer, "\npublish rival ",
                             kRival, "\nreceive engine ", kEngine,
                             "\nreceive other ", kOther, "\nread viewer ",
                             kViewer, "\nadmin ops ", kPerson, "\n"));
    audit_file_ = authority_->folder() + "/audit";
    std::ofstream(audit_file_).close();
    Serve({.gate = {.token_file = token_file_, .audit_file = audit_file_},
           .insecure_tokens = true});
  }
  void WriteTokens(const std::string& text) {
    const std::string fresh = token_file_ + ".new";
    std::ofstream(fresh) << text;
    chmod(fresh.c_str(), 0600);
    ASSERT_EQ(rename(fresh.c_str(), token_file_.c_str()), 0);
  }

  std::string address() const {
    return absl::StrCat("127.0.0.1:", server_->port());
  }
  absl::StatusOr<std::unique_ptr<CatalogStore>> Connect(
      const ClientAccess& access) {
    return MakeGrpcClient(address(), {.access = access});
  }
  std::unique_ptr<CatalogStore> With(const std::string& token) {
    auto client = Connect({.token = token, .insecure_token = true});
    EXPECT_EQ(client.status(), absl::OkStatus());
    return *std::move(client);
  }
  static Authority* authority_;
  static Authority* stranger_;
  std::string token_file_;
  std::string audit_file_;
  std::unique_ptr<CatalogStore> store_;
  std::unique_ptr<CatalogServer> server_;
};
Authority* SecureServerTest::authority_ = nullptr;
Authority* SecureServerTest::stranger_ = nullptr;

TEST_F(SecureServerTest, TlsCarriesCallsStreamsAndAttachments) {
  Serve({.tls = Tls()});
  const auto client = Connect({.tls = Trusting()});
  ASSERT_EQ(client.status(), absl::OkStatus());
  const auto publisher = Join(**client, PublisherInfo(0, 1));
  const auto watch = (*client)->WatchVersions(kModel, Soon());
  ASSERT_EQ(watch.status(), absl::OkStatus());
  ASSERT_TRUE((*client)->PublishShard(publisher.id(), 1, Soon()).ok());
  EXPECT_EQ((*watch)->Next(Soon())->version, Version(1));
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());
}

TEST_F(SecureServerTest, EachSideSaysWhatTheOtherWants) {
  Serve({.tls = Tls()});
  const absl::Status plain = Connect({}).status();
  EXPECT_EQ(plain.code(), StatusCode::kFailedPrecondition) << plain;
  EXPECT_EQ(plain.message(),
            absl::StrCat("catalog at ", address(),
                         " speaks TLS and this client does not: give --tls-ca "
                         "or WEFT_TLS_CA"));
  // So does a client of several servers.
  const absl::Status several =
      MakeGrpcClient(absl::StrCat("127.0.0.1:1,", address())).status();
  EXPECT_EQ(several, plain);
  Serve({});
  const absl::Status tls = Connect({.tls = Trusting()}).status();
  EXPECT_EQ(tls.code(), StatusCode::kFailedPrecondition) << tls;
  EXPECT_THAT(std::string(tls.message()),
              AllOf(HasSubstr("this client wants TLS"), HasSubstr(address()),
                    HasSubstr("does not speak it")));
}

TEST_F(SecureServerTest, ACertificateOfAnotherHostOrAuthorityIsRefused) {
  Serve({.tls = Tls("elsewhere")});
  const absl::Status host = Connect({.tls = Trusting()}).status();
  EXPECT_EQ(host.code(), StatusCode::kUnauthenticated) << host;
  EXPECT_THAT(std::string(host.message()), HasSubstr("IP address mismatch"));
  Serve({.tls = Tls()});
  const absl::Status authority =
      Connect({.tls = {.ca_file = stranger_->ca()}}).status();
  EXPECT_EQ(authority.code(), StatusCode::kUnauthenticated) << authority;
  EXPECT_THAT(
      std::string(authority.message()),
      AllOf(HasSubstr("the certificate of the catalog"), HasSubstr(address()),
            HasSubstr("certificate"), HasSubstr(stranger_->ca())));
}

TEST_F(SecureServerTest, AClientShowsACertificateIfOneIsWanted) {
  ServerTls tls = Tls();
  tls.client_ca_file = authority_->ca();
  Serve({.tls = tls});
  EXPECT_TRUE(Connect({.tls = Showing(*authority_, "engine")}).ok());
  const absl::Status none = Connect({.tls = Trusting()}).status();
  EXPECT_EQ(none.code(), StatusCode::kUnauthenticated) << none;
  EXPECT_THAT(std::string(none.message()),
              HasSubstr("wants a certificate of its clients"));
  const absl::Status stranger =
      Connect({.tls = Showing(*stranger_, "engine")}).status();
  EXPECT_EQ(stranger.code(), StatusCode::kUnauthenticated) << stranger;
  EXPECT_THAT(std::string(stranger.message()),
              AllOf(HasSubstr("refuses the certificate in"),
                    HasSubstr(stranger_->Cert("engine"))));
}

TEST_F(SecureServerTest, FilesThatDoNotFitAreNamedBeforeAnythingListens) {
  const auto start = [&](const ServerTls& tls) {
    return std::string(
        CatalogServer::Start("127.0.0.1:0", store_.get(), {.tls = tls})
            .status()
            .message());
  };
  store_ = MakeMemoryStore();
  EXPECT_THAT(start(Tls("expired")), HasSubstr("has expired on"));
  ServerTls mixed = Tls();
  mixed.key_file = authority_->Key("engine");
  mixed.client_ca_file = authority_->folder() + "/none.pem";
  EXPECT_THAT(start(mixed), AllOf(HasSubstr("is not that of the certificate"),
                                  HasSubstr("none.pem\": No such file")));
  EXPECT_THAT(start({.cert_file = Tls().cert_file}), HasSubstr("both"));
  ServerTls swapped{.cert_file = Tls().key_file, .key_file = Tls().cert_file};
  EXPECT_THAT(start(swapped), AllOf(HasSubstr("holds no certificate"),
                                    HasSubstr("holds no private key")));
  Serve({});
  EXPECT_THAT(
      std::string(
          Connect({.tls = Showing(*authority_, "expired")}).status().message()),
      HasSubstr("has expired on"));
  EXPECT_EQ(Connect({.tls = {.ca_file = "", .cert_file = "x"}}).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_F(SecureServerTest, TokensAreNotSentInTheClearByMistake) {
  token_file_ = authority_->folder() + "/tokens";
  WriteTokens(absl::StrCat("publish trainer ", kTrainer, "\n"));
  const CatalogServerOptions options{.gate = {.token_file = token_file_}};
  store_ = MakeMemoryStore();
  const absl::Status server =
      CatalogServer::Start("127.0.0.1:0", store_.get(), options).status();
  EXPECT_EQ(server.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(server.message()), HasSubstr("--insecure-tokens"));
  Serve({});
  const absl::Status client = Connect({.token = kTrainer}).status();
  EXPECT_EQ(client.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(client.message()), HasSubstr("--insecure-tokens"));
  EXPECT_THAT(std::string(client.message()), Not(HasSubstr(kTrainer)));
  Serve({.tls = Tls(), .gate = {.token_file = token_file_}});
  EXPECT_TRUE(Connect({.tls = Trusting(), .token = kTrainer}).ok());
}

// A call that is added and forgets its guard fails here.
TEST_F(SecureServerTest, NoCallOfTheServiceGoesWithoutAToken) {
  ServeTokens();
  const auto channel =
      grpc::CreateChannel(address(), grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  const google::protobuf::ServiceDescriptor* service =
      v1::VersionId::descriptor()->file()->service(0);
  ASSERT_GE(service->method_count(), 14);
  for (int i = 0; i < service->method_count(); ++i) {
    const std::string name = service->method(i)->name();
    for (const char* token : {"", kViewer}) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::seconds(60));
      if (*token != '\0') {
        context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
      }
      grpc::CompletionQueue queue;
      const grpc::Slice nothing;
      grpc::ByteBuffer request(&nothing, 1);
      grpc::ByteBuffer response;
      grpc::Status status;
      const auto call = stub.PrepareUnaryCall(
          &context, absl::StrCat("/", service->full_name(), "/", name), request,
          &queue);
      call->StartCall();
      call->Finish(&response, &status, nullptr);
      void* tag = nullptr;
      bool ok = false;
      ASSERT_TRUE(queue.Next(&tag, &ok));
      const bool may_be_read = name.rfind("List", 0) == 0 ||
                               name == "WatchVersions" ||
                               name == "GetSources" || name == "ReadEvents";
      if (*token == '\0') {
        EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED)
            << name;
      } else if (!may_be_read) {
        EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED)
            << name;
      }
    }
  }
}

TEST_F(SecureServerTest, AWorkerIsForTheTokenThatRegisteredIt) {
  ServeTokens();
  const auto trainer = With(kTrainer);
  const auto rival = With(kRival);
  const auto engine = With(kEngine);
  const auto other = With(kOther);
  const auto publisher = Join(*trainer, PublisherInfo(0, 1));
  ASSERT_TRUE(trainer->PublishShard(publisher.id(), 1, Soon()).ok());
  const auto receiver = Join(*engine, ReceiverInfo());
  // Another token may neither publish for it, nor end it, nor take it over.
  for (const absl::Status& status :
       {rival->PublishShard(publisher.id(), 2, Soon()).status(),
        rival->BeginUpdate(publisher.id(), Soon()).status(),
        rival->Attach(publisher.id(), Soon()).status(),
        rival->Reattach(publisher.registration, Soon()).status(),
        other->AcquireLease(receiver.id(), Version(1), Soon()).status(),
        engine->PublishShard(publisher.id(), 2, Soon()).status(),
        trainer->AcquireLease(receiver.id(), Version(1), Soon()).status(),
        trainer->Register(ReceiverInfo(1), "", Soon()).status(),
        engine->Register(PublisherInfo(0, 1, 1), "", Soon()).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kPermissionDenied) << status;
  }
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());

  const auto lease = engine->AcquireLease(receiver.id(), Version(1), Soon());
  ASSERT_EQ(lease.status(), absl::OkStatus());
  // Addresses and keys: for the one who holds the lease.
  EXPECT_EQ(other->GetSources(kModel, lease->lease_id, Soon()).status().code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(
      trainer->GetSources(kModel, lease->lease_id, Soon()).status().code(),
      StatusCode::kPermissionDenied);
  EXPECT_EQ(other->GetSources(kModel, Soon())->sources[0].binding, "");
  EXPECT_EQ(
      engine->GetSources(kModel, lease->lease_id, Soon())->sources[0].binding,
      "the binding");
  EXPECT_EQ(other->RenewLease(lease->lease_id, Soon()).code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(engine->RenewLease(lease->lease_id, Soon()), absl::OkStatus());
  EXPECT_EQ(other->ReleaseLease(lease->lease_id, true, "", Soon()).code(),
            StatusCode::kPermissionDenied);
  EXPECT_EQ(engine->ReleaseLease(lease->lease_id, true, "", Soon()),
            absl::OkStatus());

  // Whose it is is shown, and is the server's word.
  WorkerInfo liar = ReceiverInfo(2);
  liar.owner = "ops";
  const auto registered = other->Register(liar, "", Soon());
  const auto listed = With(kViewer)->ListWorkers(kModel, Soon());
  ASSERT_EQ(listed.status(), absl::OkStatus());
  for (const WorkerRecord& worker : *listed) {
    if (worker.worker_id == publisher.id()) {
      EXPECT_EQ(worker.info.owner, "trainer");
    }
    if (worker.worker_id == registered->worker_id) {
      EXPECT_EQ(worker.info.owner, "other");
    }
  }
  // A person may fence anyone.
  EXPECT_EQ(With(kPerson)->BeginUpdate(publisher.id(), Soon()).status(),
            absl::OkStatus());
}

TEST_F(SecureServerTest, TokensAreExchangedWhileAllRun) {
  ServeTokens();
  const std::string mine = authority_->folder() + "/mine";
  const auto hold = [&](const std::string& token) {
    std::ofstream(mine + ".new") << token << "\n";
    chmod((mine + ".new").c_str(), 0600);
    ASSERT_EQ(rename((mine + ".new").c_str(), mine.c_str()), 0);
  };
  hold(kTrainer);
  auto client = Connect({.token_file = mine, .insecure_token = true});
  ASSERT_EQ(client.status(), absl::OkStatus());
  const auto publisher = Join(**client, PublisherInfo(0, 1));
  WriteTokens(absl::StrCat("publish trainer ", kTrainer,
                           "\npublish trainer the-next-token-of-it\n"));
  ASSERT_TRUE((*client)->PublishShard(publisher.id(), 1, Soon()).ok());
  hold("the-next-token-of-it");
  WriteTokens("publish trainer the-next-token-of-it\n");
  EXPECT_TRUE((*client)->PublishShard(publisher.id(), 2, Soon()).ok());
  EXPECT_EQ(publisher.attachment->Health(), absl::OkStatus());
  const absl::Status old = With(kTrainer)->ListVersions("", Soon()).status();
  EXPECT_EQ(old.code(), StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(old.message()), Not(HasSubstr(kTrainer)));
}

TEST_F(SecureServerTest, WhoDidWhatIsWrittenDown) {
  ServeTokens();
  {
    const auto trainer = With(kTrainer);
    const auto publisher = Join(*trainer, PublisherInfo(0, 1));
    ASSERT_TRUE(trainer->PublishShard(publisher.id(), 1, Soon()).ok());
    With(kRival)->PublishShard(publisher.id(), 2, Soon()).IgnoreError();
  }
  std::ifstream file(audit_file_);
  std::string all((std::istreambuf_iterator<char>(file)),
                  std::istreambuf_iterator<char>());
  for (const char* each :
       {R"("token":"trainer","call":"PutPlacement")",
        R"("token":"trainer","call":"Register","model":"lab/model-1.0")",
        R"("call":"Attach")", R"("call":"Detach")", R"("subject":"step 1")",
        R"("token":"rival","call":"PublishShard")", "PERMISSION_DENIED",
        R"("peer":"ipv4:127.0.0.1:)"}) {
    EXPECT_THAT(all, HasSubstr(each));
  }
  EXPECT_THAT(all, Not(HasSubstr("token-of")));
  EXPECT_THAT(all, Not(HasSubstr("the binding")));
}

TEST_F(SecureServerTest, LimitsSayWhatTheyAre) {
  Serve({.gate = {.calls_per_second = 0.01},
         .max_watches = 0,
         .max_message_bytes = 1000});
  const auto client = Connect({});
  ASSERT_EQ(client.status(), absl::OkStatus());
  // The bucket holds one call.
  const auto watch = (*client)->WatchVersions(kModel, Soon());
  EXPECT_EQ(watch.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(watch.status().message()),
              HasSubstr("--max-watches"));
  const absl::Status often = (*client)->ListVersions("", Soon()).status();
  EXPECT_EQ(often.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(often.message()),
              AllOf(HasSubstr("0.01 calls a second"), HasSubstr("try again")));
  const std::string large(1001, 'x');
  EXPECT_EQ((*client)->Register(ReceiverInfo(), large, Soon()).status().code(),
            StatusCode::kResourceExhausted);
}

TEST_F(SecureServerTest, AWatchThatEndsMakesRoomForAnother) {
  Serve({.max_watches = 1});
  const auto client = Connect({});
  auto first = (*client)->WatchVersions(kModel, Soon());
  ASSERT_EQ(first.status(), absl::OkStatus());
  EXPECT_EQ((*client)->WatchVersions(kModel, Soon()).status().code(),
            StatusCode::kResourceExhausted);
  first->reset();
  const base::Deadline deadline = Soon();
  absl::Status again;
  do {
    again = (*client)->WatchVersions(kModel, Soon()).status();
  } while (!again.ok() && !deadline.Passed());
  EXPECT_EQ(again, absl::OkStatus());
}

}  // namespace
}  // namespace weft::catalog
