#!/usr/bin/env bash
# An installed GoogleTest, else Debian's where apt-get may be used; else CMake fetches it.
set -u
for folder in /usr/include /usr/local/include; do
    [ -f "$folder/gtest/gtest.h" ] && exit 0
done
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    { apt-get update -qq && apt-get install -y -qq libgtest-dev; } >/dev/null 2>&1 && exit 0
fi
echo "GoogleTest is not installed and apt-get may not be used here: CMake will fetch it."
