// ExecuTorch for a Java virtual machine: the native functions of ExecuTorch.kt, on the libraries of executorch's wheel.
// A handle is a program and the outputs of its last call.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/platform.h>
#include <jni.h>
#include <malloc.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

// The wheel exports these two symbols and has no header of them.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

struct Program {
  Module module;
  std::vector<EValue> outputs;  // into the methods' memory
};

// What ExecuTorch logs as an error during a call is the reason in the exception, instead of lines on the terminal.
std::mutex log_mutex;
std::string log;

void keep_message(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
                  size_t length) {
  if (level != kError && level != kFatal) return;
  const std::lock_guard<std::mutex> lock(log_mutex);
  if (log.size() < 500) log += "; " + std::string(message, length);
}

void check(Error error) {
  if (error == Error::Ok) return;
  const std::lock_guard<std::mutex> lock(log_mutex);
  throw std::runtime_error(executorch::runtime::to_string(error) + log);
}

// `body()`, whose C++ exceptions become an ExecuTorchError.
template <typename Body>
auto guarded(JNIEnv* env, Body body) -> decltype(body()) {
  {
    const std::lock_guard<std::mutex> lock(log_mutex);
    log.clear();
  }
  try {
    return body();
  } catch (const std::exception& e) {
    // Unless a function of JNI has thrown already
    if (!env->ExceptionCheck()) env->ThrowNew(env->FindClass("org/mvgpt/videogpt/jvm/ExecuTorchError"), e.what());
    return decltype(body())();
  }
}

Program& program(jlong handle) { return *reinterpret_cast<Program*>(handle); }

std::string text(JNIEnv* env, jstring value) {
  const char* characters = env->GetStringUTFChars(value, nullptr);
  if (!characters) throw std::bad_alloc();
  std::string copy(characters);
  env->ReleaseStringUTFChars(value, characters);
  return copy;
}

std::vector<jint> ints(JNIEnv* env, jintArray array) {
  std::vector<jint> values(env->GetArrayLength(array));
  env->GetIntArrayRegion(array, 0, static_cast<jsize>(values.size()), values.data());
  return values;
}

void* address(JNIEnv* env, jobject buffer, size_t bytes) {
  void* data = env->GetDirectBufferAddress(buffer);
  if (!data || static_cast<size_t>(env->GetDirectBufferCapacity(buffer)) < bytes)
    throw std::invalid_argument("a direct buffer of " + std::to_string(bytes) + " bytes is needed");
  return data;
}

jobjectArray registered_operators(JNIEnv* env, jobject) {
  return guarded(env, [&] {
    const auto kernels = executorch::runtime::get_registered_kernels();
    const auto size = static_cast<jsize>(kernels.size());
    jobjectArray names = env->NewObjectArray(size, env->FindClass("java/lang/String"), nullptr);
    for (jsize i = 0; names && i < size; ++i) {
      jstring name = env->NewStringUTF(kernels[i].name_);
      env->SetObjectArrayElement(names, i, name);
      env->DeleteLocalRef(name);  // there are hundreds
    }
    return names;
  });
}

void set_threads(JNIEnv* env, jobject, jint threads) {
  guarded(env, [&] {
    if (!executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(threads))
      throw std::runtime_error("cannot make a pool of " + std::to_string(threads) + " threads");
  });
}

jlong open(JNIEnv* env, jobject, jstring path) {
  return guarded(env, [&] {
    std::unique_ptr<Program> opened(new Program{Module(text(env, path), Module::LoadMode::Mmap), {}});
    check(opened->module.load());
    return reinterpret_cast<jlong>(opened.release());
  });
}

void close(JNIEnv*, jobject, jlong handle) {
  delete &program(handle);
  malloc_trim(0);  // glibc keeps what was freed, hundreds of megabytes
}

void load(JNIEnv* env, jobject, jlong handle, jstring method) {
  guarded(env, [&] { check(program(handle).module.load_method(text(env, method))); });
}

jstring metadata(JNIEnv* env, jobject, jlong handle, jstring method) {
  return guarded(env, [&] {
    auto result = program(handle).module.execute(text(env, method), std::vector<EValue>());
    check(result.error());
    if (result->size() != 1 || !result->at(0).isString()) throw std::runtime_error("the method returns no string");
    const auto value = result->at(0).toString();
    return env->NewStringUTF(std::string(value.data(), value.size()).c_str());
  });
}

// Inputs as parallel arrays of scalar types, shapes and direct buffers; returns scalar type and shape of each output.
jobjectArray execute(JNIEnv* env, jobject, jlong handle, jstring method, jintArray types, jobjectArray shapes,
                     jobjectArray buffers) {
  return guarded(env, [&] {
    std::vector<TensorPtr> tensors;  // alive until the call is over
    std::vector<EValue> inputs;
    for (const jint code : ints(env, types)) {
      const auto i = static_cast<jsize>(inputs.size());
      const auto type = static_cast<ScalarType>(code);
      const auto sizes = ints(env, static_cast<jintArray>(env->GetObjectArrayElement(shapes, i)));
      size_t bytes = executorch::runtime::elementSize(type);
      for (const jint size : sizes) bytes *= size;
      void* data = address(env, env->GetObjectArrayElement(buffers, i), bytes);
      inputs.emplace_back(tensors.emplace_back(executorch::extension::from_blob(data, sizes, type)));
    }
    auto result = program(handle).module.execute(text(env, method), inputs);
    check(result.error());
    program(handle).outputs = std::move(*result);

    const auto size = static_cast<jsize>(program(handle).outputs.size());
    jobjectArray infos = env->NewObjectArray(size, env->FindClass("[I"), nullptr);
    for (jsize i = 0; infos && i < size; ++i) {
      if (!program(handle).outputs[i].isTensor()) throw std::runtime_error("an output is no tensor");
      const auto tensor = program(handle).outputs[i].toTensor();
      std::vector<jint> values{static_cast<jint>(tensor.scalar_type())};
      values.insert(values.end(), tensor.sizes().begin(), tensor.sizes().end());
      jintArray info = env->NewIntArray(static_cast<jsize>(values.size()));
      env->SetIntArrayRegion(info, 0, static_cast<jsize>(values.size()), values.data());
      env->SetObjectArrayElement(infos, i, info);
    }
    return infos;
  });
}

// Copies output `index` of the last call.
void output(JNIEnv* env, jobject, jlong handle, jint index, jobject buffer) {
  guarded(env, [&] {
    const auto tensor = program(handle).outputs.at(index).toTensor();
    std::memcpy(address(env, buffer, tensor.nbytes()), tensor.const_data_ptr(), tensor.nbytes());
  });
}

template <typename Function>
JNINativeMethod native(const char* name, const char* signature, Function* function) {
  return {const_cast<char*>(name), const_cast<char*>(signature), reinterpret_cast<void*>(function)};
}

}  // namespace

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM* machine, void*) {
  JNIEnv* env;
  if (machine->GetEnv(reinterpret_cast<void**>(&env), JNI_VERSION_1_6) != JNI_OK) return JNI_ERR;
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep_message, __FILE__));
  const JNINativeMethod methods[] = {
      native("operators", "()[Ljava/lang/String;", registered_operators),
      native("setThreads", "(I)V", set_threads),
      native("open", "(Ljava/lang/String;)J", open),
      native("close", "(J)V", close),
      native("load", "(JLjava/lang/String;)V", load),
      native("metadata", "(JLjava/lang/String;)Ljava/lang/String;", metadata),
      native("execute", "(JLjava/lang/String;[I[[I[Ljava/nio/ByteBuffer;)[[I", execute),
      native("output", "(JILjava/nio/ByteBuffer;)V", output),
  };
  jclass owner = env->FindClass("org/mvgpt/videogpt/jvm/ExecuTorch");
  if (!owner || env->RegisterNatives(owner, methods, sizeof(methods) / sizeof(*methods)) != JNI_OK) return JNI_ERR;
  return JNI_VERSION_1_6;
}
