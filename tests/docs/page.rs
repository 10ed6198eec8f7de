//! What a page of Markdown holds that can be true or false: fenced blocks with what is noted above them, links, and the
//! anchors of its headings. Reads text; runs nothing.

use std::collections::HashMap;

use larder_tests::larder::repository;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A page: a file of Markdown, read.
pub(crate) struct Page {
    /// Its path from the top of the repository.
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
    /// Destinations as they are written, each with its line.
    pub(crate) links: Vec<(usize, String)>,
    /// The anchors of the headings, as GitHub makes them.
    pub(crate) anchors: Vec<String>,
}

/// A fenced block.
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) text: String,
    pub(crate) note: Option<Note>,
}

/// What a comment right above a block says of it; readers do not see it.
pub(crate) enum Note {
    /// `<!-- run by: tests/FILE.rs TEST -->`: another test does what the block says, with more around it.
    RunBy(String),
    /// `<!-- not run: REASON -->`: nobody does.
    NotRun(String),
    /// `<!-- fragments of [TABLE] -->`: each paragraph of settings stands alone in that table.
    Fragments(String),
}

impl Note {
    fn read(comment: &str) -> Option<Self> {
        let text = comment.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
        let text = text.trim();
        let after = |prefix| text.strip_prefix(prefix).map(|rest| rest.trim().to_owned());
        after("run by:")
            .map(Self::RunBy)
            .or_else(|| after("not run:").map(Self::NotRun))
            .or_else(|| after("fragments of").map(Self::Fragments))
    }
}

impl Page {
    /// Reads a page.
    ///
    /// # Panics
    /// When it is not there.
    pub(crate) fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(repository().join(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        Self::parse(path, &text)
    }

    pub(crate) fn parse(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            blocks: Vec::new(),
            links: Vec::new(),
            anchors: Vec::new(),
        };
        let line = |offset: usize| text[..offset].matches('\n').count() + 1;
        let mut seen: HashMap<String, usize> = HashMap::new();
        let (mut heading, mut block) = (None::<String>, None::<Block>);
        let (mut note, mut comment) = (None, String::new());
        let options = Options::ENABLE_TABLES;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let slug = slug(&heading.take().unwrap_or_default());
                    let times = seen.entry(slug.clone()).or_default();
                    page.anchors.push(match *times {
                        0 => slug,
                        again => format!("{slug}-{again}"),
                    });
                    *times += 1;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block {
                        line: line(range.start),
                        language: language.to_string(),
                        text: String::new(),
                        note: note.take(),
                    });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::HtmlBlock) => comment.clear(),
                Event::Html(html) => comment.push_str(&html),
                Event::End(TagEnd::HtmlBlock) => note = Note::read(&comment),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((line(range.start), dest_url.to_string()));
                }
                // What a note is about comes right after it.
                Event::Start(Tag::Paragraph | Tag::List(_) | Tag::Table(_)) => note = None,
                Event::Text(text) | Event::Code(text) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    } else if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// The anchor that GitHub makes of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}

/// Every page that users read, sorted.
pub(crate) fn all() -> Vec<Page> {
    let mut paths = ["README.md", "plugins/README.md", "bench/README.md"]
        .map(str::to_owned)
        .to_vec();
    let below = |directory: &str| {
        let entries = std::fs::read_dir(repository().join(directory)).expect("a directory");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.flatten().map(name).collect::<Vec<_>>()
    };
    for name in below("docs") {
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    for name in below("examples") {
        let path = format!("examples/{name}/README.md");
        if repository().join(&path).exists() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

#[test]
fn a_page_is_read_with_its_notes_anchors_and_links() {
    let page = Page::parse(
        "a.md",
        "# What `x` is, and *why*\n\n<!-- not run: it takes an hour -->\n```sh\nmake x\n```\n\n## Twice\n## Twice\n\n<!-- not run: no -->\n\nText [there](b.md#c).\n\n```json\n{}\n```\n",
    );
    assert_eq!(page.anchors, ["what-x-is-and-why", "twice", "twice-1"]);
    assert_eq!(page.links, [(13, "b.md#c".to_owned())]);
    let [first, second] = page.blocks.as_slice() else {
        panic!("two blocks, not {}", page.blocks.len())
    };
    assert_eq!((first.line, first.text.as_str()), (4, "make x\n"));
    assert!(matches!(&first.note, Some(Note::NotRun(why)) if why == "it takes an hour"));
    assert!(second.note.is_none(), "a note is about what follows it");
}
