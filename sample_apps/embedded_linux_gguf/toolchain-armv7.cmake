# 32-bit ARM Linux with a hardware floating point unit, with Debian's and Ubuntu's cross compiler: sudo apt-get install g++-arm-linux-gnueabihf
# NEON with fused multiply-add (VFPv4) is what Cortex-A7, A15, A17 and all 64-bit cores have; Cortex-A8 and A9 do not.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7)
set(CMAKE_C_COMPILER arm-linux-gnueabihf-gcc)
set(CMAKE_CXX_COMPILER arm-linux-gnueabihf-g++)
set(CMAKE_C_FLAGS_INIT "-march=armv7-a -mfpu=neon-vfpv4 -mfloat-abi=hard")
set(CMAKE_CXX_FLAGS_INIT "-march=armv7-a -mfpu=neon-vfpv4 -mfloat-abi=hard")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
