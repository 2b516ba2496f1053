// An HTTP server that slow clients can neither occupy nor keep from ending.
#ifndef WEFT_APPS_HTTP_SERVER_H_
#define WEFT_APPS_HTTP_SERVER_H_

#include <httplib.h>

#include <chrono>
#include <cstddef>

namespace weft::apps {

// httplib's own waits `read timeout` for each byte, so that a client that sends
// one now and then keeps a thread for ever. Here a connection carries one
// request and has `patience` for all of it; of those that wait for a thread the
// newest comes first, whose client is there still; stop() ends all at once.
class HttpServer : public httplib::Server {
 public:
  HttpServer(std::size_t num_threads, std::chrono::milliseconds patience);

 private:
  bool process_and_close_socket(socket_t socket) override;

  const std::chrono::milliseconds patience_;
};

}  // namespace weft::apps

#endif  // WEFT_APPS_HTTP_SERVER_H_
