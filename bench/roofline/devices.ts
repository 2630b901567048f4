/**
 * What a GPU can do at most, by its maker's data sheet: dense tensor operations, no sparsity.
 * @module
 */

/** Limits of one GPU. */
export interface Device {
  /** Its name; the maker's GB of memory are GiB. */
  name: string;
  /** Memory, in bytes. */
  memory: number;
  /** Memory bandwidth, in bytes per second. */
  bandwidth: number;
  /** bf16 tensor operations per second, a multiply-add being two. */
  bf16: number;
  /** fp8 tensor operations per second; 0 where there are none and bf16's are used. */
  fp8: number;
  /** Bytes per second that it sends to other GPUs of its host, and as many that it receives. */
  link: number;
}

const GB = 1e9;
const GiB = 2 ** 30;
const TB = 1e12;

/** SXM modules (HGX boards), published figures: NVIDIA's data sheets. */
export const devices: Readonly<Record<string, Device>> = {
  a100: {
    name: "A100 80 GB",
    memory: 80 * GiB,
    bandwidth: 2.039 * TB,
    bf16: 312e12,
    fp8: 0,
    link: 300 * GB,
  },
  h100: {
    name: "H100",
    memory: 80 * GiB,
    bandwidth: 3.35 * TB,
    bf16: 989e12,
    fp8: 1979e12,
    link: 450 * GB,
  },
  h800: {
    name: "H800",
    memory: 80 * GiB,
    bandwidth: 3.35 * TB,
    bf16: 989e12,
    fp8: 1979e12,
    link: 200 * GB,
  },
  h200: {
    name: "H200",
    memory: 141 * GiB,
    bandwidth: 4.8 * TB,
    bf16: 989e12,
    fp8: 1979e12,
    link: 450 * GB,
  },
  b200: {
    name: "B200",
    memory: 180 * GiB,
    bandwidth: 7.7 * TB,
    bf16: 2250e12,
    fp8: 4500e12,
    link: 900 * GB,
  },
};
