//! Byte-level BPE with hand-written DeepSeek splitters.
