// Checking that something fails with the right exception and a message that says what it must say.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace arbiter::test {

/// `action` must throw exactly an `Exception` whose message contains every one of `parts`.
template <typename Exception, typename Action>
void expect_error(Action&& action, std::initializer_list<std::string_view> parts) {
  try {
    action();
  } catch (const Exception& error) {
    const std::string message = error.what();
    for (const std::string_view part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message;
    return;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "threw another exception: " << error.what();
    return;
  }
  ADD_FAILURE() << "threw nothing";
}

}  // namespace arbiter::test
