//! What the numbers of a safetensors file are, in one pass over its bytes: counts, norms, and the Gram matrices of
//! LoRA factors, from which the spectrum of B·A follows in r × r space. Memory stays at one factor.

use std::sync::Arc;

use crate::audit::limits;
use crate::audit::safetensors::header::{self, Entry, Header};

/// A tensor and what its numbers are.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Name, type, shape.
    pub(crate) entry: Entry,
    /// Elements that are no number.
    pub(crate) nan: u64,
    /// Elements that are infinite.
    pub(crate) infinite: u64,
    /// Sum of the squares of the finite elements.
    pub(crate) square_sum: f64,
    /// Largest finite magnitude.
    pub(crate) largest: f64,
    /// Whether the elements could be read: the type is one of F64, F32, F16 and BF16.
    pub(crate) counted: bool,
    /// Checksum of the bytes, to find copies.
    pub(crate) checksum: u32,
    /// Of a LoRA factor of rank r: its products of rows (A) or columns (B), `[r, r]`.
    pub(crate) gram: Option<Vec<f64>>,
    /// Elements of a factor B, `[out, r]`, up to [`limits::KEPT_FACTOR_BYTES`] of a file.
    pub(crate) kept: Option<Arc<[f32]>>,
}

impl Measured {
    /// Whether every element was read and is zero.
    pub(crate) fn is_zero(&self) -> bool {
        self.counted && self.nan == 0 && self.infinite == 0 && self.square_sum <= 0.0
    }

    /// Number of elements.
    pub(crate) fn elements(&self) -> u64 {
        self.entry.shape.iter().product()
    }
}

/// Which side of B·A a tensor's name makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Factor {
    /// `[r, in]`
    A,
    /// `[out, r]`
    B,
}

fn factor(entry: &Entry) -> Option<Factor> {
    let [rows, columns] = entry.shape[..] else { return None };
    let (side, rank) = if entry.name.contains("lora_A") || entry.name.contains("lora_embedding_A") {
        (Factor::A, rows)
    } else if entry.name.contains("lora_B") || entry.name.contains("lora_embedding_B") {
        (Factor::B, columns)
    } else {
        return None;
    };
    let fits = rank > 0 && rank <= limits::RANK && entry.end - entry.start <= limits::FACTOR_BYTES;
    fits.then_some(side)
}

/// Takes the bytes of a file in order, in pieces of any size.
pub(crate) struct Meter {
    header: Header,
    /// Position in the file.
    at: u64,
    /// The next tensor in the order of the data.
    next: usize,
    /// Of the current tensor: a factor's bytes, or the part of an element that a piece ended in.
    pending: Vec<u8>,
    current: Option<Measured>,
    hasher: crc32fast::Hasher,
    done: Vec<Measured>,
    /// Bytes of factors that may still be kept.
    keep: usize,
}

impl Meter {
    pub(crate) fn new(header: Header) -> Self {
        Self {
            header,
            at: 0,
            next: 0,
            pending: Vec::new(),
            current: None,
            hasher: crc32fast::Hasher::new(),
            done: Vec::new(),
            keep: limits::KEPT_FACTOR_BYTES,
        }
    }

    /// The next bytes of the file, from its very start.
    pub(crate) fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let Some(entry) = self.header.entries.get(self.next) else {
                self.at += piece.len() as u64;
                return;
            };
            let (start, end) = (self.header.data_start + entry.start, self.header.data_start + entry.end);
            if self.current.is_none() {
                if self.at > start || start == end {
                    // It overlaps an earlier one, or has no bytes.
                    self.begin();
                    self.finish();
                    continue;
                }
                if self.at < start {
                    let skip = ((start - self.at) as usize).min(piece.len());
                    self.at += skip as u64;
                    piece = &piece[skip..];
                    continue;
                }
                self.begin();
            }
            let take = ((end - self.at) as usize).min(piece.len());
            self.take(&piece[..take]);
            self.at += take as u64;
            piece = &piece[take..];
            if self.at == end {
                self.finish();
            }
        }
    }

    /// What was measured; tensors beyond the end of the file are not in it.
    pub(crate) fn end(mut self) -> Vec<Measured> {
        // Tensors without bytes may stand at the very end.
        while self.current.is_none()
            && self.header.entries.get(self.next).is_some_and(|entry| entry.start == entry.end)
        {
            self.begin();
            self.finish();
        }
        self.done
    }

    fn begin(&mut self) {
        let entry = self.header.entries[self.next].clone();
        let counted = matches!(entry.dtype.name, "F64" | "F32" | "F16" | "BF16");
        self.pending.clear();
        self.hasher = crc32fast::Hasher::new();
        self.current = Some(Measured {
            entry,
            nan: 0,
            infinite: 0,
            square_sum: 0.0,
            largest: 0.0,
            counted,
            checksum: 0,
            gram: None,
            kept: None,
        });
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(tensor) = &mut self.current else { return };
        self.hasher.update(bytes);
        if !tensor.counted {
            return;
        }
        self.pending.extend_from_slice(bytes);
        if factor(&tensor.entry).is_none() {
            let width = (tensor.entry.dtype.bits / 8) as usize;
            let whole = self.pending.len() / width * width;
            count(tensor, &values(tensor.entry.dtype.name, &self.pending[..whole]));
            self.pending.drain(..whole);
        }
    }

    fn finish(&mut self) {
        let Some(mut tensor) = self.current.take() else { return };
        tensor.checksum = std::mem::take(&mut self.hasher).finalize();
        if tensor.counted
            && let Some(side) = factor(&tensor.entry)
        {
            let numbers = values(tensor.entry.dtype.name, &self.pending);
            count(&mut tensor, &numbers);
            if tensor.nan == 0 && tensor.infinite == 0 {
                let (rows, columns) = (tensor.entry.shape[0] as usize, tensor.entry.shape[1] as usize);
                tensor.gram = match side {
                    Factor::A => gram(&numbers, rows, columns),
                    Factor::B => gram(&transposed(&numbers, rows, columns), columns, rows),
                };
                let bytes = size_of_val(&numbers[..]);
                if side == Factor::B && bytes <= self.keep {
                    self.keep -= bytes;
                    tensor.kept = Some(numbers.into());
                }
            }
        }
        self.pending.clear();
        self.done.push(tensor);
        self.next += 1;
    }
}

/// Measures a file that is wholly in memory.
pub(crate) fn measure(bytes: &[u8]) -> Vec<Measured> {
    let mut meter = Meter::new(header::read(bytes, bytes.len() as u64));
    meter.feed(bytes);
    meter.end()
}

fn values(dtype: &str, bytes: &[u8]) -> Vec<f32> {
    let pair = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    match dtype {
        "F32" => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        "F64" => bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        "BF16" => bytes.chunks_exact(2).map(|bytes| half::bf16::from_bits(pair(bytes)).to_f32()).collect(),
        _ => bytes.chunks_exact(2).map(|bytes| half::f16::from_bits(pair(bytes)).to_f32()).collect(),
    }
}

fn count(tensor: &mut Measured, values: &[f32]) {
    let (mut squares, mut largest) = (0f64, 0f32);
    for piece in values.chunks(256) {
        let sum: f32 = piece.iter().map(|value| value * value).sum();
        if sum.is_finite() {
            squares += f64::from(sum);
            largest = piece.iter().fold(largest, |largest, value| largest.max(value.abs()));
            continue;
        }
        for value in piece {
            if value.is_nan() {
                tensor.nan += 1;
            } else if value.is_infinite() {
                tensor.infinite += 1;
            } else {
                squares += f64::from(*value) * f64::from(*value);
                largest = largest.max(value.abs());
            }
        }
    }
    tensor.square_sum += squares;
    tensor.largest = tensor.largest.max(f64::from(largest));
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; values.len()];
    for (row, line) in values.chunks_exact(columns.max(1)).enumerate() {
        for (column, value) in line.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
    out
}

/// Products of the rows of a `[rows, columns]` matrix.
fn gram(values: &[f32], rows: usize, columns: usize) -> Option<Vec<f64>> {
    if columns == 0 || values.len() != rows.checked_mul(columns)? {
        return None;
    }
    let mut products = vec![0f64; rows * rows];
    for i in 0..rows {
        let left = &values[i * columns..(i + 1) * columns];
        for j in i..rows {
            let product = dot(left, &values[j * columns..(j + 1) * columns]);
            products[i * rows + j] = product;
            products[j * rows + i] = product;
        }
    }
    Some(products)
}

/// A product with enough independent sums for the compiler to use vectors.
fn dot(left: &[f32], right: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (mut sums, mut total) = ([0f32; LANES], 0f64);
    for (left, right) in left.chunks(1024).zip(right.chunks(1024)) {
        let ((left, left_rest), (right, right_rest)) =
            (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
        for (left, right) in left.iter().zip(right) {
            for lane in 0..LANES {
                sums[lane] += left[lane] * right[lane];
            }
        }
        total += left_rest.iter().zip(right_rest).map(|(l, r)| f64::from(l * r)).sum::<f64>();
        total += sums.iter().map(|sum| f64::from(*sum)).sum::<f64>();
        sums = [0f32; LANES];
    }
    total
}

/// Share of the largest singular value of B·A in the sum of squares, and its Frobenius norm, from the Gram matrices of
/// both factors: the squared singular values are the eigenvalues of their product.
pub(crate) fn spectrum(a: &[f64], b: &[f64], rank: usize) -> Option<Spectrum> {
    if a.len() != rank * rank || b.len() != rank * rank || rank == 0 {
        return None;
    }
    let total: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    let multiply = |matrix: &[f64], vector: &[f64]| -> Vec<f64> {
        matrix.chunks_exact(rank).map(|row| row.iter().zip(vector).map(|(m, v)| m * v).sum()).collect()
    };
    // Power iteration; what it misses of a nearly equal second value does not matter for a share.
    let mut vector: Vec<f64> = (0..rank).map(|index| 1.0 + (index as f64) / (rank as f64)).collect();
    let mut top = 0f64;
    for _ in 0..40 {
        let image = multiply(a, &multiply(b, &vector));
        let length = image.iter().map(|value| value * value).sum::<f64>().sqrt();
        let before = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length <= 0.0 || before <= 0.0 || !length.is_finite() {
            break;
        }
        top = length / before;
        vector = image.iter().map(|value| value / length).collect();
    }
    (top > 0.0).then(|| Spectrum { top_share: (top / total).min(1.0), norm: total.sqrt(), top: vector })
}

/// The spectrum of B·A, as far as triage needs it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spectrum {
    /// Square of the largest singular value over the sum of all squares; its inverse is the stable rank.
    pub(crate) top_share: f64,
    /// Frobenius norm.
    pub(crate) norm: f64,
    /// Weights `[r]` of B's columns in the left singular vector of the largest singular value.
    pub(crate) top: Vec<f64>,
}

/// A safetensors file of F32 tensors, for tests.
#[cfg(test)]
pub(super) fn file_of(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        entries.insert((*name).to_owned(), entry);
    }
    let header = serde_json::Value::Object(entries).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spectrum_of_a_product_comes_from_gram_matrices() {
        // A = [[3, 0, 0], [0, 1, 0]], B = [[1, 0], [0, 2], [0, 0]]: singular values of B·A are 3 and 2.
        let a = gram(&[3.0, 0.0, 0.0, 0.0, 1.0, 0.0], 2, 3).unwrap();
        let b = gram(&transposed(&[1.0, 0.0, 0.0, 2.0, 0.0, 0.0], 3, 2), 2, 3).unwrap();
        let spectrum = spectrum(&a, &b, 2).unwrap();
        assert!((spectrum.norm - 13f64.sqrt()).abs() < 1e-9);
        assert!((spectrum.top_share - 9.0 / 13.0).abs() < 1e-6);
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let text = br#"{"x.lora_A.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"y":{"dtype":"BF16","shape":[3],"data_offsets":[24,30]}}"#;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text);
        for value in [1f32, 2.0, 3.0, -4.0, 5.0, f32::INFINITY] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&[0x80, 0x3f, 0xc0, 0x7f, 0x00, 0x00]);
        let whole = measure(&bytes);
        assert_eq!(whole.len(), 2);
        assert_eq!((whole[0].infinite, whole[0].nan), (1, 0));
        assert!((whole[0].largest - 5.0).abs() < 1e-9 && (whole[1].square_sum - 1.0).abs() < 1e-9);
        assert_eq!((whole[1].infinite, whole[1].nan), (0, 1));
        let mut meter = Meter::new(header::read(&bytes, bytes.len() as u64));
        bytes.iter().for_each(|byte| meter.feed(&[*byte]));
        let single = meter.end();
        for (a, b) in whole.iter().zip(&single) {
            assert_eq!((a.nan, a.infinite, a.checksum), (b.nan, b.infinite, b.checksum));
            assert!((a.square_sum - b.square_sum).abs() < 1e-9);
        }
    }
}
