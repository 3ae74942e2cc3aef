//! The fields of one head, by position. Owns no bytes: sixty-four spans into the head, so that a parsed head is half a
//! kilobyte on the stack whatever its fields. RFC 9110 section 5.

/// The most fields that a head may have.
pub const HEADERS_MAX: usize = 64;

/// The longest head, since spans are of 16 bits.
pub(super) const HEAD_BYTES_MAX: usize = u16::MAX as usize;

/// Where one field lies in its head.
#[derive(Clone, Copy)]
struct Span {
    name_start: u16,
    name_bytes: u16,
    value_start: u16,
    value_bytes: u16,
}

/// The fields of a head, in the order in which they came. Names compare without regard to ASCII case.
#[derive(Clone)]
pub struct Headers<'b> {
    head: &'b [u8],
    spans: [Span; HEADERS_MAX],
    count: usize,
}

impl<'b> Headers<'b> {
    /// No fields yet, all of which will lie in `head`.
    #[inline]
    pub(super) const fn new(head: &'b [u8]) -> Self {
        let empty = Span { name_start: 0, name_bytes: 0, value_start: 0, value_bytes: 0 };
        Self { head, spans: [empty; HEADERS_MAX], count: 0 }
    }

    /// Adds a field whose slices lie in the head. One too many, or one that lies elsewhere, would be a bug of the
    /// parser's and is left out.
    #[inline]
    pub(super) fn push(&mut self, name: &str, value: &[u8]) {
        let places = (self.place(name.as_bytes()), self.place(value));
        let (Some((name_start, name_bytes)), Some((value_start, value_bytes))) = places else {
            debug_assert!(false, "a field outside of its head");
            return;
        };
        if let Some(span) = self.spans.get_mut(self.count) {
            *span = Span { name_start, name_bytes, value_start, value_bytes };
            self.count += 1;
        }
    }

    /// Where in the head a slice of it lies: start and length.
    #[inline]
    fn place(&self, part: &[u8]) -> Option<(u16, u16)> {
        let start = (part.as_ptr() as usize).checked_sub(self.head.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= self.head.len().min(HEAD_BYTES_MAX))?;
        // No cast truncates: both are at most HEAD_BYTES_MAX.
        Some((start as u16, (end - start) as u16))
    }

    /// The first field of this name, or `None` if there is none or its value is not UTF-8.
    #[inline]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'b str> {
        core::str::from_utf8(self.get_bytes(name)?).ok()
    }

    /// The first field of this name, as it came.
    #[inline]
    #[must_use]
    pub fn get_bytes(&self, name: &str) -> Option<&'b [u8]> {
        self.values(name).next()
    }

    /// Every value of this name, in order.
    #[inline]
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'b [u8]> + use<'_, 'b, 'n> {
        self.spans
            .iter()
            .take(self.count)
            .filter(move |span| {
                usize::from(span.name_bytes) == name.len()
                    && self.slice(span.name_start, span.name_bytes).eq_ignore_ascii_case(name.as_bytes())
            })
            .map(|span| self.slice(span.value_start, span.value_bytes))
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.values(name).count()
    }

    /// How many fields there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Every field, name and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'_, 'b> {
        self.spans.iter().take(self.count).map(|span| {
            let name = self.slice(span.name_start, span.name_bytes);
            // A name is a token, hence ASCII: the parser refused every other.
            (core::str::from_utf8(name).unwrap_or(""), self.slice(span.value_start, span.value_bytes))
        })
    }

    /// Where in the head each field's line starts.
    #[inline]
    pub(super) fn line_starts(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().take(self.count).map(|span| usize::from(span.name_start))
    }

    #[inline]
    fn slice(&self, start: u16, bytes: u16) -> &'b [u8] {
        let start = usize::from(start);
        self.head.get(start..start + usize::from(bytes)).unwrap_or(&[])
    }
}

impl core::fmt::Debug for Headers<'_> {
    /// Names only: values may hold credentials.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

const _: () = assert!(size_of::<Headers<'_>>() <= 544);
