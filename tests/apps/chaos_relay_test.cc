// Ports that a chaos fleet chooses before it starts anything there.
#include "chaos_relay.h"

#include <fstream>
#include <set>

#include "gtest/gtest.h"

namespace weft::apps {
namespace {

// Relays and other programs took the port of a catalog before it was started,
// or while it was killed: "catalog 0 should have stayed and has ended".
TEST(FreePort, IsNoneThatTheKernelGivesAway) {
  int first_given = 0;
  std::ifstream("/proc/sys/net/ipv4/ip_local_port_range") >> first_given;
  ASSERT_GT(first_given, 0);
  std::set<int> ports;
  for (int i = 0; i < 200; ++i) {
    const auto port = FreePort();
    ASSERT_TRUE(port.ok()) << port.status();
    EXPECT_LT(*port, first_given);
    EXPECT_TRUE(ports.insert(*port).second) << *port << " came twice";
  }
}

}  // namespace
}  // namespace weft::apps
