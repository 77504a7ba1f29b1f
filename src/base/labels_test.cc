#include "base/labels.h"

#include <gtest/gtest.h>

#include <string>

namespace penstock {
namespace {

TEST(LabelsTest, AreReadAndWritten) {
  EXPECT_EQ(parse_labels("").value(), Labels{});
  EXPECT_EQ(parse_labels("zone=eu").value(), (Labels{{"zone", "eu"}}));
  for (const char* text : {"zone=eu,gpu=h100", "example.com/pool=a_b-c"}) {
    EXPECT_EQ(format_labels(parse_labels(text).value()), text);
  }
}

TEST(LabelsTest, WhatIsNoneIsRefused) {
  const std::string many = "a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1";
  EXPECT_TRUE(parse_labels(many).has_value());
  for (const std::string& text :
       {std::string("zone"), std::string("=eu"), std::string("zone="), std::string("zone=eu,"),
        std::string(","), std::string("zone=eu,,gpu=a"), std::string("zone=a=b"),
        std::string("zone=a b"), std::string("zone=eu,zone=us"), std::string("zone=\xC3\xA4"),
        "zone=" + std::string(64, 'a'), many + ",q=1"}) {
    const Result<Labels> labels = parse_labels(text);
    ASSERT_FALSE(labels.has_value()) << text;
    EXPECT_EQ(labels.error().code, Code::kInvalidArgument);
    EXPECT_NE(labels.error().message.find("NAME=VALUE"), std::string::npos);
  }
}

}  // namespace
}  // namespace penstock
