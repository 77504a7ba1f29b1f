// The parts of Boost that need not be compiled in every file that uses them: those files leave them
// out where the build defines the same two macros.

#ifndef BOOST_ASIO_SEPARATE_COMPILATION
#define BOOST_ASIO_SEPARATE_COMPILATION
#endif
#ifndef BOOST_BEAST_SEPARATE_COMPILATION
#define BOOST_BEAST_SEPARATE_COMPILATION
#endif

#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
