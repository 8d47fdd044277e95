//! Datagrams from the kernel's own generator: an XDP program that writes a frame and sends it, run in
//! batches of live frames, and one that drops what comes back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    programs::{TestRunAttrs, Xdp, XdpMode},
};

use crate::xdp_object::{NAME, object};

/// Frames of the first call, by which the next ones are sized, and of the largest one.
const CHUNK: u32 = 4_096;
const FRAMES_MAX: u32 = 1 << 24;
/// Frames of one batch; fewer than a veth's ring holds.
const BATCH: u32 = 64;
/// `XDP_DROP` and `XDP_TX`.
const DROP: u8 = 1;
const SEND: u8 = 3;
/// What is still on its way when the last frame was sent.
const SETTLE: Duration = Duration::from_millis(20);

/// What became of frames that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Frames that came back to the device.
    pub came_back: u64,
    /// Frames that were sent.
    pub sent: u64,
    /// In how long.
    pub elapsed: Duration,
}

/// A sink on a device of this namespace, and a generator of one frame.
#[derive(Debug)]
pub struct Generator {
    sender: Ebpf,
    _sink: Ebpf,
    device: &'static str,
    index: u32,
    frame: Vec<u8>,
}

impl Generator {
    /// Sends `frame` by `device` and drops what comes in there, until it is dropped itself.
    pub fn new(device: &'static str, mut frame: Vec<u8>) -> anyhow::Result<Self> {
        frame.resize(frame.len().next_multiple_of(4), 0);
        let index = nix::net::if_::if_nametoindex(device).context("the device is gone")?;
        let mut sink =
            Ebpf::load(&object(&[instruction(0xb7, 0, 0, u32::from(DROP)), EXIT].concat()))
                .context("cannot load the program that drops")?;
        let program = xdp(&mut sink)?;
        program.load().context("the kernel refuses the program that drops")?;
        program.attach(device, XdpMode::Driver).context("cannot attach the program that drops")?;
        let mut sender = Ebpf::load(&object(&code(&frame))).context("cannot load the generator")?;
        xdp(&mut sender)?.load().context("the kernel refuses the generator")?;
        Ok(Self { sender, _sink: sink, device, index, frame })
    }

    /// Sends for about so long; how many frames came back of how many, and in how long.
    ///
    /// All of them in one call, without what a call takes by itself: the kernel waits for every
    /// processor before and after (`bpf_prog_change_xdp`), some 20 ms.
    pub fn run(&mut self, length: Duration) -> anyhow::Result<Passed> {
        let call = self.send(BATCH)?;
        let mut sent = CHUNK;
        let mut elapsed = self.send(sent)?.saturating_sub(call);
        while elapsed < length && sent < FRAMES_MAX {
            let factor = length.as_secs_f64() / elapsed.as_secs_f64().max(1e-4);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
            let factor = (factor * 1.1).clamp(2.0, 16.0) as u32;
            sent = sent.saturating_mul(factor).min(FRAMES_MAX);
            let before = received(self.device)?;
            elapsed = self.send(sent)?.saturating_sub(call);
            thread::sleep(SETTLE);
            let came_back = received(self.device)? - before;
            ensure!(
                came_back * 2 > u64::from(sent),
                "of {sent} packets only {came_back} came back to the host"
            );
            if elapsed >= length || sent == FRAMES_MAX {
                return Ok(Passed { came_back, sent: u64::from(sent), elapsed });
            }
        }
        anyhow::bail!("{sent} packets took {} ms at once", elapsed.as_millis())
    }

    /// How long it took.
    fn send(&mut self, frames: u32) -> anyhow::Result<Duration> {
        // `struct xdp_md`: everything but the length and the device is the kernel's.
        let words = [0, u32::try_from(self.frame.len())?, 0, self.index, 0, 0];
        let context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.ctx_in = Some(&context);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let program = xdp(&mut self.sender)?;
        let begun = Instant::now();
        program.test_run(options).context("the kernel does not send live frames")?;
        Ok(begun.elapsed())
    }
}

fn xdp(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    let program = ebpf.program_mut(NAME).context("the program is not in its object")?;
    program.try_into().context("the program is no XDP")
}

/// Packets that a device of this namespace has received.
fn received(device: &str) -> anyhow::Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.with_context(|| format!("{path} does not tell the packets of {device}"))
}

const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// One instruction: code, registers (source above destination), offset, immediate.
fn instruction(code: u8, registers: u8, offset: i16, immediate: u32) -> [u8; 8] {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    [code, registers, low, high, a, b, c, d]
}

/// Writes the whole frame, since the kernel uses its pages again as it gets them back, and sends it.
fn code(frame: &[u8]) -> Vec<u8> {
    let (words, _) = frame.as_chunks::<4>();
    let stores = i16::try_from(words.len()).unwrap_or(i16::MAX);
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut code = vec![
        // r2 = data, r3 = data_end, r4 = data + length; too short: XDP_ABORTED.
        instruction(0xb7, 0x00, 0, 0),
        instruction(0x61, 0x12, 0, 0),
        instruction(0x61, 0x13, 4, 0),
        instruction(0xbf, 0x24, 0, 0),
        instruction(0x07, 0x04, 0, length),
        instruction(0x2d, 0x34, stores + 1, 0),
    ];
    for (at, word) in (0_i16..).step_by(4).zip(words) {
        code.push(instruction(0x62, 0x02, at, u32::from_le_bytes(*word)));
    }
    code.push(instruction(0xb7, 0x00, 0, u32::from(SEND)));
    code.push(EXIT);
    code.concat()
}
