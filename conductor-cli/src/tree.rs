//! Lines in a tree.

use super::output::{Cells, FAINT, Table, styled};

/// A text with branches below it.
#[derive(Debug)]
pub(crate) struct Tree {
    text: String,
    branches: Vec<Tree>,
}

impl Tree {
    /// Creates a tree without branches. The text may have several lines.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            branches: Vec::new(),
        }
    }

    pub(crate) fn with(text: impl Into<String>, branches: impl IntoIterator<Item = Tree>) -> Self {
        Self {
            text: text.into(),
            branches: branches.into_iter().collect(),
        }
    }

    /// Replaces the branches.
    pub(crate) fn over(mut self, branches: Vec<Tree>) -> Self {
        self.branches = branches;
        self
    }

    pub(crate) fn push(&mut self, branch: Tree) {
        self.branches.push(branch);
    }

    pub(crate) fn render(&self) -> String {
        let mut lines = Vec::new();
        self.draw("", "", &mut lines);
        lines.join("\n")
    }

    /// Draws the tree, with the prefix `first` for the first line and `others` for the others.
    fn draw(&self, first: &str, others: &str, lines: &mut Vec<String>) {
        let bar = if self.branches.is_empty() { "" } else { "│ " };
        let mut texts = self.text.split('\n');
        lines.push(format!("{first}{}", texts.next().unwrap_or_default()));
        lines.extend(texts.map(|text| format!("{others}{bar}{text}").trim_end().to_owned()));
        for (at, branch) in self.branches.iter().enumerate() {
            let (turn, bar) = if at + 1 == self.branches.len() {
                ("└ ", "  ")
            } else {
                ("├ ", "│ ")
            };
            branch.draw(&format!("{others}{turn}"), &format!("{others}{bar}"), lines);
        }
    }
}

/// Returns a leaf with a name in the first column.
pub(crate) fn row(name: &str, text: &str) -> Tree {
    Tree::new(format!("{} {text}", styled(FAINT, &format!("{name:<8}"))))
}

/// Returns a leaf for each row, with the cells aligned in columns. No row may be empty.
pub(crate) fn aligned(rows: impl IntoIterator<Item = Cells>) -> Vec<Tree> {
    let table = Table::without_header(rows).render();
    table.lines().map(Tree::new).collect()
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn branches_hang_under_their_line() {
        let leaf = Tree::new("a\nb");
        let inner = Tree::with("inner\nmore", [Tree::new("c")]);
        let tree = Tree::with("root", [leaf, inner, Tree::new("last\n")]);
        assert_eq!(
            tree.render(),
            "root\n├ a\n│ b\n├ inner\n│ │ more\n│ └ c\n└ last\n"
        );
    }
}
