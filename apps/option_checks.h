// What numbers on the command line must be, in words that a person can read
// (CLI11's own name the limits of double).
#ifndef WEFT_APPS_OPTION_CHECKS_H_
#define WEFT_APPS_OPTION_CHECKS_H_

namespace CLI {
class Validator;
}

namespace weft::apps {

// Finite numbers, whole where the option is.
CLI::Validator AboveZero();
CLI::Validator NotBelowZero();

}  // namespace weft::apps

#endif  // WEFT_APPS_OPTION_CHECKS_H_
