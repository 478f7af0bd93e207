// The instruction sets this build carries, and the best of them that the running machine has.
#pragma once
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(REAREC_AVX512_BF16)
#include <cpuid.h>
#endif
#if defined(REAREC_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(REAREC_NEON_BF16) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(REAREC_NEON_BF16)
#include <sys/auxv.h>
#endif

namespace rearec {

// `avx512_bf16` is x86_64_v4 with AVX-512's conversions to bfloat16 and products of it on top, `amx` that with the tile
// registers: engines of csrc/cpu/tiles, all else is that of x86_64_v4. `neon_bf16` is to the baseline of 64-bit Arm, which
// has Neon, what avx512_bf16 is to x86_64_v4.
enum class Isa : int { baseline = 0, x86_64_v3 = 1, x86_64_v4 = 2, avx512_bf16 = 3, amx = 4, neon_bf16 = 5 };

inline const char* isa_name(Isa isa) {
  static const char* const names[] = {"baseline", "x86_64_v3", "x86_64_v4", "avx512_bf16", "amx", "neon_bf16"};
  return names[static_cast<int>(isa)];
}

#if defined(REAREC_AVX512_BF16)
inline bool avx512_bf16_usable() {  // of a processor that has AVX-512
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#if defined(REAREC_AMX)
// The processor has the tiles, and Linux lets this process use them: it has to be asked, once per process.
inline bool tiles_usable() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if (!(d >> 24 & 1) || !(d >> 22 & 1)) return false;  // AMX-TILE, AMX-BF16
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

#if defined(REAREC_NEON_BF16)
inline bool neon_bf16_usable() {
#if defined(__APPLE__)
  int there = 0;
  size_t size = sizeof there;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &there, &size, nullptr, 0) == 0 && there;
#else
  constexpr unsigned long kProductsOfBfloat16 = 1ul << 14;  // HWCAP2_BF16, which older headers do not know
  return getauxval(AT_HWCAP2) & kProductsOfBfloat16;
#endif
}
#endif

inline std::vector<Isa> usable_isas() {
  std::vector<Isa> usable = {Isa::baseline};
#if REAREC_ISA_COUNT > 1
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v3) usable.push_back(Isa::x86_64_v3);
  if (v4) usable.push_back(Isa::x86_64_v4);
#endif
#if defined(REAREC_AVX512_BF16)
  const bool bf16 = v4 && avx512_bf16_usable();
  if (bf16) usable.push_back(Isa::avx512_bf16);
#endif
#if defined(REAREC_AMX)
  if (bf16 && tiles_usable()) usable.push_back(Isa::amx);
#endif
#if defined(REAREC_NEON_BF16)
  if (neon_bf16_usable()) usable.push_back(Isa::neon_bf16);
#endif
  return usable;
}

// REAREC_CPU_ISA names a lower one, for tests and for comparing machines; an unusable name is an error.
inline Isa chosen_isa() {
  const std::vector<Isa> usable = usable_isas();
  const char* wanted = std::getenv("REAREC_CPU_ISA");
  if (!wanted || !*wanted) return usable.back();
  for (Isa isa : usable)
    if (std::strcmp(isa_name(isa), wanted) == 0) return isa;
  std::string message = std::string("REAREC_CPU_ISA=") + wanted + ": this build on this machine can use";
  for (Isa isa : usable) message += std::string(" ") + isa_name(isa);
  throw std::runtime_error(message);
}

// The table `name` of the kernels for `isa`.
#if REAREC_ISA_COUNT > 1
#define REAREC_KERNELS(name, isa)                         \
  (isa >= Isa::x86_64_v4   ? x86_64_v4::name              \
   : isa == Isa::x86_64_v3 ? x86_64_v3::name              \
                           : baseline::name)
#else
#define REAREC_KERNELS(name, isa) baseline::name
#endif

// The engine of csrc/cpu/tiles for `isa`; the oldest processors of x86 have none.
#if REAREC_ISA_COUNT > 1
inline bool has_tile_engine(Isa isa) { return isa >= Isa::x86_64_v3; }
#else
inline bool has_tile_engine(Isa) { return true; }
#endif
#if defined(REAREC_AMX)
#define REAREC_TILE_ENGINE(name, isa)               \
  (isa >= Isa::amx           ? tiles::amx::name         \
   : isa == Isa::avx512_bf16 ? tiles::avx512_bf16::name \
                             : tiles::portable::name)
#elif defined(REAREC_AVX512_BF16)
#define REAREC_TILE_ENGINE(name, isa) (isa >= Isa::avx512_bf16 ? tiles::avx512_bf16::name : tiles::portable::name)
#elif defined(REAREC_NEON_BF16)
#define REAREC_TILE_ENGINE(name, isa) (isa == Isa::neon_bf16 ? tiles::neon_bf16::name : tiles::portable::name)
#else
#define REAREC_TILE_ENGINE(name, isa) tiles::portable::name
#endif
// Whether the processor itself multiplies bfloat16: the names above x86_64_v4 are those of such engines.
inline bool multiplies_bfloat16(Isa isa) { return isa > Isa::x86_64_v4; }
inline const char* tile_engine_name(Isa isa) { return multiplies_bfloat16(isa) ? isa_name(isa) : "portable"; }

}  // namespace rearec
