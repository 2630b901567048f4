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

/** Published figures: NVIDIA's data sheets of SXM modules (HGX boards), and its GA102 whitepaper. */
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
  rtx3070: {
    name: "GeForce RTX 3070",
    memory: 8 * GiB,
    bandwidth: 448 * GB,
    bf16: 40.6e12, // f32 sums
    fp8: 0,
    link: 31.5 * GB, // PCI Express 4
  },
};

/** Limits of a machine with one GPU. */
export interface Host {
  /** What it is. */
  name: string;
  /** Memory, in bytes. */
  memory: number;
  /** Memory bandwidth, in bytes per second. */
  bandwidth: number;
  /** int8 operations per second: two multiply-adds of 128 bits a cycle and core, as the CPU kernels are built. */
  operations: number;
  /** Bytes per second from and to the GPU, each. */
  link: number;
}

/** Bytes per second of DDR5. @param channels Of 64 bits. @param rate Transfers per second. @returns It. */
const ddr5 = (channels: number, rate: number) => channels * 8 * rate;
/** int8 operations of cores at a clock that they hold. */
const int8 = (cores: number, hertz: number) => cores * hertz * 2 * 16 * 2;
/** Bytes per second of 16 lanes of PCI Express. @param rate Transfers per second of a lane. @returns It. */
const pcie = (rate: number) => 16 * rate * 128 / 130 / 8;

/** Machines as they are sold; not certain ones. */
export const hosts: Readonly<Record<string, Host>> = {
  desktop: {
    name: "8 cores of 4 GHz, 2 channels of DDR5-5600, PCIe 4",
    memory: 32 * GiB,
    bandwidth: ddr5(2, 5.6e9),
    operations: int8(8, 4e9),
    link: pcie(16e9),
  },
  server: {
    name: "32 cores of 2 GHz, 8 channels of DDR5-4800, PCIe 5",
    memory: 128 * GiB,
    bandwidth: ddr5(8, 4.8e9),
    operations: int8(32, 2e9),
    link: pcie(32e9),
  },
};
