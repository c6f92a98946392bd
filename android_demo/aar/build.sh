#!/usr/bin/env bash
# Builds ExecuTorch's AAR with mvgpt's operators, for bundles that were exported with fused kernels (--backend android).
#
#     git clone --branch v1.5.1 --recurse-submodules https://github.com/pytorch/executorch
#     ANDROID_NDK=… ANDROID_HOME=… android_demo/aar/build.sh path/to/executorch
#
# Needs CMake, ninja or make, a JDK 17, the Android SDK, an NDK from r27 on, and Python with what ExecuTorch's own build needs
# (its install_requirements). Writes aar/executorch-mvgpt.aar. Not run so far: it was written without an NDK.
set -euo pipefail

die() {
  echo "build.sh: $*" >&2
  exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
executorch=$(cd "${1:?usage: build.sh path/to/executorch}" && pwd)
abis=${ANDROID_ABIS:-arm64-v8a x86_64}
[[ -f $executorch/extension/android/CMakeLists.txt ]] || die "$executorch is no ExecuTorch: clone it with its submodules"
toolchain=${ANDROID_NDK:-}/build/cmake/android.toolchain.cmake
[[ -f $toolchain ]] || die "ANDROID_NDK names no NDK: set it to the folder that holds build/cmake/android.toolchain.cmake"
[[ -d ${ANDROID_HOME:-} ]] || die "ANDROID_HOME names no Android SDK"
readelf=$(echo "$ANDROID_NDK"/toolchains/llvm/prebuilt/*/bin/llvm-readelf)
strip=$(echo "$ANDROID_NDK"/toolchains/llvm/prebuilt/*/bin/llvm-strip)

cd "$executorch"
for abi in $abis; do
  out=cmake-out-android-$abi
  # The preset is ExecuTorch's own for this package. Pages of 16 KB: phones with Android 15 may have them.
  cmake . --preset "android-$abi" -B "$out" \
    -DCMAKE_TOOLCHAIN_FILE="$toolchain" \
    -DANDROID_PLATFORM=android-26 \
    -DANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON \
    -DCMAKE_SHARED_LINKER_FLAGS="-Wl,-z,max-page-size=16384" \
    -DCMAKE_PROJECT_executorch_jni_INCLUDE="$here/mvgpt_kernels.cmake" \
    -DEXECUTORCH_BUILD_EXTENSION_TRAINING=ON \
    -DSUPPORT_REGEX_LOOKAHEAD=ON \
    -DFLATCC_ALLOW_WERROR=OFF \
    -DCMAKE_BUILD_TYPE=Release
  cmake --build "$out" --target executorch_jni --parallel

  library=cmake-out-android-so/$abi/libexecutorch.so
  mkdir -p "$(dirname "$library")"
  cp "$out"/extension/android/libexecutorch_jni.so "$library"
  # A name of ours that is not an exported symbol: it is in the data from which the operators are registered.
  grep -q "mvgpt::selective_scan.out" "$library" || die "the operators are not in $library"
  "$strip" "$library"
  if "$readelf" -lW "$library" | awk '$1 == "LOAD" { print $NF }' | grep -qvx 0x4000; then
    die "$library is not aligned to 16 KB"
  fi
done

cd extension/android
./gradlew :executorch_android:assembleRelease
cp executorch_android/build/outputs/aar/executorch_android-release.aar "$here/executorch-mvgpt.aar"
echo "$here/executorch-mvgpt.aar"
