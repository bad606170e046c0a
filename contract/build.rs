//! Packs `data/` for the library: one text with every record in compact form, and a generated index into it.
//! A program that needs one method then decodes one method. This script refuses data that the router could not serve.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const VERBS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];

/// Paths below which everything, slashes included, is one parameter (pve-common PVE/RESTHandler.pm,
/// `fragmentDelimiter`).
const SWALLOWING: [&str; 4] = [
    "/cluster/firewall/ipset/{name}",
    "/nodes/{node}/qemu/{vmid}/firewall/ipset/{name}",
    "/nodes/{node}/lxc/{vmid}/firewall/ipset/{name}",
    "/nodes/{node}/storage/{storage}/content",
];

#[derive(Default)]
struct Node {
    template: String,
    methods: [Option<usize>; 4],
    fixed: BTreeMap<String, usize>,
    variable: Option<(String, usize)>,
}

#[derive(Default)]
struct Packer {
    blob: String,
    index: String,
}

impl Packer {
    fn put(&mut self, value: &Value) -> (usize, usize) {
        let start = self.blob.len();
        self.blob.push_str(&value.to_string());
        (start, self.blob.len())
    }

    /// Writes a sorted table of named records.
    fn table(&mut self, name: &str, records: &BTreeMap<String, Value>) {
        let mut rows = String::new();
        for (key, value) in records {
            let (start, end) = self.put(value);
            let _ = writeln!(rows, "    ({key:?}, {start}, {end}),");
        }
        let _ =
            writeln!(self.index, "pub(crate) static {name}: [(&str, usize, usize); {}] = [\n{rows}];\n", records.len());
    }
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn object(value: Value, path: &Path) -> BTreeMap<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().collect(),
        _ => panic!("{}: not an object", path.display()),
    }
}

/// All objects of a folder merged; a key may occur in one file only.
fn read_folder(folder: &Path) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder of the source tree can be listed").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        for (key, value) in object(read(&path), &path) {
            assert!(all.insert(key.clone(), value).is_none(), "{}: {key} is defined twice", path.display());
        }
    }
    all
}

fn insert(nodes: &mut Vec<Node>, template: &str) -> usize {
    let mut at = 0;
    let mut walked = String::new();
    for component in template.split('/').filter(|component| !component.is_empty()) {
        let _ = write!(walked, "/{component}");
        let variable = component.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let known = match variable {
            Some(name) => {
                let known = nodes[at].variable.as_ref();
                assert!(known.is_none_or(|(other, _)| other == name), "{template}: two names for one component");
                known.map(|(_, index)| *index)
            }
            None => nodes[at].fixed.get(component).copied(),
        };
        at = known.unwrap_or_else(|| {
            let index = nodes.len();
            nodes.push(Node { template: walked.clone(), ..Node::default() });
            match variable {
                Some(name) => nodes[at].variable = Some((name.to_owned(), index)),
                None => {
                    nodes[at].fixed.insert(component.to_owned(), index);
                }
            }
            index
        });
    }
    at
}

fn pack_methods(packer: &mut Packer, paths: &BTreeMap<String, Value>) {
    let mut nodes = vec![Node { template: "/".to_owned(), ..Node::default() }];
    let mut rows = String::new();
    let mut count = 0;
    for (template, methods) in paths {
        let node = insert(&mut nodes, template);
        let methods = methods.as_object().unwrap_or_else(|| panic!("{template}: not an object"));
        for (slot, verb) in VERBS.iter().enumerate() {
            let Some(method) = methods.get(*verb) else {
                continue;
            };
            let (start, end) = packer.put(method);
            nodes[node].methods[slot] = Some(count);
            let _ = writeln!(rows, "    MethodRow {{ verb: {slot}, node: {node}, start: {start}, end: {end} }},");
            count += 1;
        }
        assert!(methods.keys().all(|verb| VERBS.contains(&verb.as_str())), "{template}: unknown verb");
    }
    let _ = writeln!(packer.index, "pub(crate) static METHODS: [MethodRow; {count}] = [\n{rows}];\n");
    let mut rows = String::new();
    for node in &nodes {
        assert!(
            node.fixed.is_empty() || node.variable.is_none(),
            "{}: has fixed children and a variable one",
            node.template
        );
        let methods = node.methods.map(|m| m.map_or("NONE".to_owned(), |m| m.to_string())).join(", ");
        let fixed: Vec<String> = node.fixed.iter().map(|(name, index)| format!("({name:?}, {index})")).collect();
        let variable = match &node.variable {
            Some((name, index)) => format!("Some(({name:?}, {index}))"),
            None => "None".to_owned(),
        };
        let _ = writeln!(
            rows,
            "    Node {{ template: {:?}, methods: [{methods}], fixed: &[{}], variable: {variable}, swallows: {} }},",
            node.template,
            fixed.join(", "),
            SWALLOWING.contains(&node.template.as_str()),
        );
    }
    let _ = writeln!(packer.index, "pub(crate) static NODES: [Node; {}] = [\n{rows}];\n", nodes.len());
    for template in SWALLOWING {
        assert!(nodes.iter().any(|node| node.template == template), "{template} is no path");
    }
}

fn main() {
    println!("cargo:rerun-if-changed=data");
    println!("cargo:rerun-if-changed=build.rs");
    let data = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("data");
    let out = env::var("OUT_DIR").expect("set by cargo");
    let out = Path::new(&out);
    let mut packer = Packer::default();

    pack_methods(&mut packer, &read_folder(&data.join("methods")));
    packer.table("TOOLS", &read_folder(&data.join("tools")));
    for (name, file) in [
        ("PROPERTY_STRINGS", "property-strings.json"),
        ("SIMPLE_FORMATS", "simple-formats.json"),
        ("SECTION_CONFIGS", "section-configs.json"),
    ] {
        let path = data.join(file);
        packer.table(name, &object(read(&path), &path));
    }
    let mut single = BTreeMap::new();
    for name in ["roles", "acl-paths", "firewall-macros", "conventions", "docs", "network-names"] {
        single.insert(name.to_owned(), read(&data.join(name).with_extension("json")));
    }
    packer.table("SINGLE", &single);

    fs::write(out.join("blob.json"), &packer.blob).expect("the build folder is writable");
    fs::write(out.join("index.rs"), &packer.index).expect("the build folder is writable");
}
