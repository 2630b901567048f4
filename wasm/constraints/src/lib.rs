//! Which tokens may come next, so that a text is one that a JSON schema, a regex, a list or a grammar
//! describes. llguidance does the work; this is what the host (`src/constraints/`) calls.
//!
//! An instance of the module holds one vocabulary and one constraint, and a matcher for each text that
//! grows under it. The host keeps the memory of an instance that has loaded a vocabulary, and begins
//! every further one with a copy of it; so nothing is shared, and a trap ends one constraint alone.
//!
//! Lists go through the buffer of `reserve`. A function that can fail returns 0 (null) where it does,
//! and `message` says why.

use std::cell::RefCell;
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::{regex_to_lark, JsonCompileOptions, Matcher, ParserFactory};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokRxInfo, TokTrie};

/// Steps of work, so that neither a constraint nor a token takes long.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 1200,
    initial_lexer_fuel: 300_000,
    step_lexer_fuel: 100_000,
    step_max_items: 5_000,
    max_lexer_states: 20_000,
    max_grammar_size: 20_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};
/// The same for grammars, where one item may take long.
const GRAMMAR_STEP_MAX_ITEMS: usize = 2_000;

/// Tokens of which llguidance knows at once whether all may come: characters of JSON strings.
const SLICE: &str = r#"[^"\\\x00-\x1F\x7F]{1,30}"#;

/// Between two tokens of JSON: without a bound, a model may go on with white space for ever.
const WHITESPACE: &str = r"\x20{1,2}|\r?\n[\x20\x09]{0,64}";

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    message: String,
    factory: Option<ParserFactory>,
    /// What every matcher begins as.
    compiled: Option<Matcher>,
    matchers: Vec<Option<Matcher>>,
    mask: Option<SimpleVob>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with_state<T>(call: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(call)
}

impl State {
    fn u32_at(&self, word: usize) -> u32 {
        u32::from_le_bytes(self.buffer[word * 4..word * 4 + 4].try_into().unwrap())
    }

    fn text(&self, from: usize, to: usize) -> &str {
        std::str::from_utf8(&self.buffer[from..to]).unwrap()
    }

    fn matcher(&mut self, number: usize) -> &mut Matcher {
        self.matchers[number - 1].as_mut().unwrap()
    }

    /// 1, or 0 with a message.
    fn status<E: std::fmt::Display>(&mut self, result: Result<(), E>) -> u32 {
        match result {
            Ok(()) => 1,
            Err(error) => {
                self.message = error.to_string();
                0
            }
        }
    }
}

/// The clock that llguidance takes its statistics with; there is none here.
#[no_mangle]
pub extern "C" fn now() -> f64 {
    0.0
}

/// Room for a list; valid until the next call.
#[no_mangle]
pub extern "C" fn reserve(bytes: usize) -> *mut u8 {
    with_state(|state| {
        state.buffer = vec![0; bytes];
        state.buffer.as_mut_ptr()
    })
}

/// UTF-8 text of the last failure.
#[no_mangle]
pub extern "C" fn message() -> *const u8 {
    with_state(|state| state.message.as_ptr())
}

#[no_mangle]
pub extern "C" fn message_length() -> usize {
    with_state(|state| state.message.len())
}

/// Takes a vocabulary: lengths u32 [tokens], ids u32 [ends] of the tokens that end a text, then the
/// bytes of all tokens. A token of length 0 never comes.
#[no_mangle]
pub extern "C" fn load_vocabulary(tokens: usize, ends: usize) -> u32 {
    with_state(|state| {
        let end_ids: Vec<u32> = (0..ends).map(|i| state.u32_at(tokens + i)).collect();
        let mut at = (tokens + ends) * 4;
        let mut words = Vec::with_capacity(tokens);
        for token in 0..tokens {
            let length = state.u32_at(token) as usize;
            words.push(state.buffer[at..at + length].to_vec());
            at += length;
        }
        state.buffer = Vec::new();
        let info = TokRxInfo::new(tokens as u32, end_ids[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&end_ids);
        let env: toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = [SLICE.to_string()];
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map(
            |mut factory| {
                *factory.limits_mut() = LIMITS;
                factory.quiet();
                state.factory = Some(factory);
            },
        );
        state.status(factory)
    })
}

/// Compiles the constraint, the first `bytes` of the buffer. `kind` 0: a JSON schema; 1: a regex;
/// 2: a JSON list of texts; 3: a grammar in llguidance's form of Lark.
#[no_mangle]
pub extern "C" fn compile(kind: u32, bytes: usize) -> u32 {
    with_state(|state| {
        let compiled = grammar(kind, state.text(0, bytes)).and_then(|grammar| {
            let factory = state.factory.as_mut().unwrap();
            factory.limits_mut().step_max_items =
                if kind == 3 { GRAMMAR_STEP_MAX_ITEMS } else { LIMITS.step_max_items };
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            match matcher.get_error() {
                Some(error) => Err(error),
                // The first mask tells whether anything can be written at all.
                None => matcher.compute_mask_or_eos().map(|_| matcher).map_err(|e| e.to_string()),
            }
        });
        let stored = compiled.map(|matcher| state.compiled = Some(matcher));
        state.status(stored)
    })
}

fn grammar(kind: u32, text: &str) -> Result<TopLevelGrammar, String> {
    let grammar = match kind {
        0 => GrammarWithLexer::from_json_schema(schema_of(text)?),
        // Digits and letters of words are ASCII's, as in JavaScript and in schemas.
        1 => GrammarWithLexer::from_lark(format!("start: /{}/", regex_to_lark(text, "dw"))),
        2 => {
            let texts: Vec<String> =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            let quoted: Vec<String> =
                texts.iter().map(|text| serde_json::to_string(text).unwrap()).collect();
            GrammarWithLexer::from_lark(format!("start: CHOICE\nCHOICE: {}", quoted.join(" | ")))
        }
        3 => GrammarWithLexer::from_lark(text.to_string()),
        _ => GrammarWithLexer::from_lark(calls(text)?),
    };
    Ok(TopLevelGrammar::from_grammar(grammar))
}

fn schema_of(text: &str) -> Result<serde_json::Value, String> {
    let mut schema: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if schema.is_object() {
        let options = JsonCompileOptions {
            whitespace_pattern: Some(WHITESPACE.to_string()),
            ..JsonCompileOptions::default()
        };
        options.apply_to(&mut schema);
    }
    Ok(schema)
}

/// One of several texts with JSON in their middle: a JSON list of [what comes before, schema, what follows].
fn calls(text: &str) -> Result<String, String> {
    let calls: Vec<[String; 3]> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let names: Vec<String> = (0..calls.len()).map(|i| format!("call{i}")).collect();
    let mut grammar = format!("start: {}\n", names.join(" | "));
    for (i, [begin, schema, end]) in calls.iter().enumerate() {
        let quoted = |text: &String| serde_json::to_string(text).unwrap();
        let (begin, end, schema) = (quoted(begin), quoted(end), schema_of(schema)?);
        grammar += &format!("call{i}: {begin} json{i} {end}\njson{i}: %json {schema}\n");
    }
    Ok(grammar)
}

/// Begins a text. Returns the matcher's number, from 1.
#[no_mangle]
pub extern "C" fn begin() -> usize {
    with_state(|state| {
        let matcher = state.compiled.clone();
        match state.matchers.iter().position(Option::is_none) {
            Some(free) => {
                state.matchers[free] = matcher;
                free + 1
            }
            None => {
                state.matchers.push(matcher);
                state.matchers.len()
            }
        }
    })
}

/// Ends a text.
#[no_mangle]
pub extern "C" fn end(matcher: usize) {
    with_state(|state| state.matchers[matcher - 1] = None)
}

/// Tokens that may come next, a bit for each; those that end a text exactly where it may end. Valid
/// until the next call.
#[no_mangle]
pub extern "C" fn mask(matcher: usize) -> *const u32 {
    with_state(|state| match state.matcher(matcher).compute_mask_or_eos() {
        Ok(mask) => state.mask.insert(mask).as_slice().as_ptr(),
        Err(error) => {
            state.message = error.to_string();
            std::ptr::null()
        }
    })
}

/// Goes on by a token that the mask allows.
#[no_mangle]
pub extern "C" fn take(matcher: usize, token: u32) -> u32 {
    with_state(|state| {
        let taken = state.matcher(matcher).consume_token(token);
        state.status(taken)
    })
}
