// Stands in for CUDA's header of this name, so that g++ compiles sources written for nvcc: kernels run on the CPU, one
// fiber per CUDA thread. What it does not declare, the simulator does not do.
//
// Beyond a wrong result, it finds: barriers and warp operations that not all threads reach (abort), shared memory read
// before it is written (NaN), accesses out of bounds (address sanitizer), misaligned vector loads (undefined behaviour
// sanitizer), and races within a block or between blocks (thread sanitizer): threads are ordered only by __syncthreads
// and __syncwarp. It does not model weak memory, tensor cores, PTX or graphs.
#pragma once
#include "device_functions.h"
#include "host_functions.h"
#include "math_functions.h"
#include "shared_memory.h"
#include "vector_types.h"
