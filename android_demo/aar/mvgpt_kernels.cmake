# Puts our operators into ExecuTorch's library for Android, without a change to ExecuTorch's sources. build.sh passes this file as
# CMAKE_PROJECT_executorch_jni_INCLUDE, so that CMake reads it right after project(executorch_jni), where ExecuTorch's targets
# exist; that project links what EXECUTORCH_JNI_CUSTOM_LIBRARY names as a whole, registration included.
add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/../../runtime/kernels ${CMAKE_CURRENT_BINARY_DIR}/mvgpt_kernels)
set(EXECUTORCH_JNI_CUSTOM_LIBRARY mvgpt_kernels)
