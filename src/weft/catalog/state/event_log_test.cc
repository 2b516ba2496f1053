// A bounded log: what a reader is told of what it has missed.
#include "weft/catalog/state/event_log.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace weft::catalog {
namespace {

std::vector<Event> Numbered(uint64_t first, uint64_t last,
                            const std::string& model = "m") {
  std::vector<Event> events;
  for (uint64_t number = first; number <= last; ++number) {
    Event& event = events.emplace_back();
    event.number = number;
    event.model = model;
  }
  return events;
}

std::vector<uint64_t> NumbersOf(const EventPage& page) {
  std::vector<uint64_t> numbers;
  for (const Event& event : page.events) numbers.push_back(event.number);
  return numbers;
}

using Numbers = std::vector<uint64_t>;

TEST(EventLogTest, TheOldestGoAndAReaderIsToldHowMany) {
  EventLog log(/*events_kept=*/3);
  EXPECT_TRUE(log.Read({.from = 1}).events.empty());
  log.Append(Numbered(1, 2), 9, 3);
  EXPECT_EQ(NumbersOf(log.Read({.from = 0})), (Numbers{1, 2}));
  log.Append(Numbered(3, 10), 9, 11);
  const EventPage page = log.Read({.from = 3, .log_id = 9});
  EXPECT_EQ(NumbersOf(page), (Numbers{8, 9, 10}));
  EXPECT_EQ(page.missed, 5u);
  EXPECT_EQ(page.next, 11u);
  EXPECT_FALSE(page.restarted);
  // Who wants whatever there is misses nothing.
  EXPECT_EQ(log.Read({.from = 0}).missed, 0u);
  EXPECT_FALSE(log.HasNews({.from = 11, .log_id = 9}));
}

TEST(EventLogTest, PagesAreBoundedAndKeepTheirPlace) {
  EventLog log;
  log.Append(Numbered(1, 4, "a"), 9, 5);
  log.Append(Numbered(5, 6, "b"), 9, 7);
  const EventPage one = log.Read({.from = 2, .max_events = 2});
  EXPECT_EQ(NumbersOf(one), (Numbers{2, 3}));
  EXPECT_EQ(one.next, 4u);
  EXPECT_EQ(one.end, 7u);
  const EventPage two = log.Read({.from = 4, .model = "b", .max_events = 1});
  EXPECT_EQ(NumbersOf(two), (Numbers{5}));
  EXPECT_EQ(two.next, 6u);
  EXPECT_EQ(NumbersOf(log.Read({.from = 1, .max_events = -5})), (Numbers{1}));
}

TEST(EventLogTest, AHoleInTheMiddleIsCountedWhereItIs) {
  EventLog log;
  log.Append(Numbered(1, 2), 9, 3);
  // A replica came from a snapshot that was five events on.
  log.Append(Numbered(8, 9), 9, 10);
  const EventPage before = log.Read({.from = 1});
  EXPECT_EQ(NumbersOf(before), (Numbers{1, 2}));
  EXPECT_EQ(before.next, 3u);
  const EventPage after = log.Read({.from = before.next});
  EXPECT_EQ(after.missed, 5u);
  EXPECT_EQ(NumbersOf(after), (Numbers{8, 9}));
  // One that came with no event at all.
  log.Append({}, 9, 20);
  const EventPage end = log.Read({.from = 10});
  EXPECT_EQ(end.missed, 10u);
  EXPECT_EQ(end.next, 20u);
}

TEST(EventLogTest, EventsThatComeAgainAreKeptOnce) {
  EventLog log;
  log.Append(Numbered(1, 5), 9, 6);
  log.Append(Numbered(3, 7), 9, 8);
  EXPECT_EQ(NumbersOf(log.Read({.from = 1})), (Numbers{1, 2, 3, 4, 5, 6, 7}));
}

TEST(EventLogTest, AnotherLogOrOneThatLostItsEndBeginsAgain) {
  EventLog log;
  log.Append(Numbered(1, 5), 9, 6);
  // Who has read nothing yet has missed nothing.
  EXPECT_FALSE(log.Read({.from = 1, .log_id = 8}).restarted);
  EXPECT_TRUE(log.HasNews({.from = 6, .log_id = 8}));
  EXPECT_TRUE(log.Read({.from = 6, .log_id = 8}).restarted);
  log.Append(Numbered(1, 2), 10, 3);
  const EventPage other = log.Read({.from = 6, .log_id = 9});
  EXPECT_TRUE(other.restarted);
  EXPECT_EQ(other.log_id, 10u);
  EXPECT_EQ(NumbersOf(other), (Numbers{1, 2}));
  log.Append(Numbered(2, 2), 10, 3);
  log.Append({}, 10, 2);
  const EventPage back = log.Read({.from = 3, .log_id = 10});
  EXPECT_TRUE(back.restarted);
  EXPECT_EQ(back.next, 2u);
}

}  // namespace
}  // namespace weft::catalog
