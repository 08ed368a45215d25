//! Views of which a batch needs few rows: those that it is joined with on equal columns.
//!
//! Of such a view rows whose columns have no value of the batch's are in no result, so they may as well not be there: a join reads both of its
//! sides whole, and a view may have a million rows where a batch has ten.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Volatility};

/// A view, and the values that its columns are joined on.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub view: String,
    /// The values, as columns that are called as the view's.
    pub values: LogicalPlan,
}

/// Of a plan as `written`, and `optimized`, so that its joins say which columns are equal. None where something in it depends on when it runs:
/// to optimize is to run such a function once and for all.
///
/// # Errors
/// Never: the plan is one.
pub(super) fn lookups(written: &LogicalPlan, optimized: &LogicalPlan, views: &[&str]) -> Result<Vec<Lookup>> {
    if depends_on_time(written)? {
        return Ok(Vec::new());
    }
    let mut scans: HashMap<String, usize> = HashMap::new();
    let mut joins = Vec::new();
    optimized.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) => *scans.entry(scan.table_name.table().to_owned()).or_default() += 1,
            LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNothing => {
                joins.push(join.clone())
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut found = Vec::new();
    for join in joins {
        // Whose rows are in the result without a partner's have to be there.
        let is_right = matches!(join.join_type, JoinType::Inner | JoinType::Left);
        let is_left = matches!(join.join_type, JoinType::Inner | JoinType::Right);
        for (is_optional, is_left) in [(is_right, false), (is_left, true)] {
            if is_optional && let Some(lookup) = lookup(&join, is_left, views)? {
                found.push(lookup);
            }
        }
    }
    // What is read in two places needs the rows of both.
    found.retain(|lookup: &Lookup| scans.get(&lookup.view) == Some(&1));
    Ok(found)
}

fn depends_on_time(plan: &LogicalPlan) -> Result<bool> {
    let is_fixed = |function: &ScalarFunction| function.func.signature().volatility == Volatility::Immutable;
    let mut depends = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            depends |= expr.exists(|e| Ok(matches!(e, Expr::ScalarFunction(function) if !is_fixed(function))))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(depends)
}

/// Of the view on one side of a join, if it is one, and the other side is made of the batch's rows one by one.
fn lookup(join: &Join, is_left: bool, views: &[&str]) -> Result<Option<Lookup>> {
    let (own, other) = if is_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
    let mut is_by_row = true;
    other.apply_with_subqueries(|node| {
        // The SELECT also runs over parts of a batch: what a part gives, the whole has to give too.
        is_by_row &= match node {
            LogicalPlan::TableScan(scan) => scan.fetch.is_none() && !views.contains(&scan.table_name.table()),
            LogicalPlan::Join(join) => {
                matches!(join.join_type, JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi)
            }
            LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => true,
            _ => false,
        };
        Ok(TreeNodeRecursion::Continue)
    })?;
    if !is_by_row {
        return Ok(None);
    }
    let (mut view, mut values) = (None, Vec::new());
    for (left, right) in &join.on {
        let (column, value) = if is_left { (left, right) } else { (right, left) };
        let Expr::Column(column) = column else { continue };
        let Some((table, column)) = origin(own, column) else { continue };
        if !views.contains(&table.as_str()) || view.as_ref().is_some_and(|view| *view != table) {
            return Ok(None);
        }
        view = Some(table);
        values.push(value.clone().alias(column));
    }
    let Some(view) = view else { return Ok(None) };
    let values = LogicalPlanBuilder::from(Arc::clone(other)).project(values)?.build()?;
    Ok(Some(Lookup { view, values }))
}

/// The table and its column that a column is, where nothing was done to it.
fn origin(plan: &LogicalPlan, column: &Column) -> Option<(String, String)> {
    match plan {
        LogicalPlan::TableScan(scan) => Some((scan.table_name.table().to_owned(), column.name.clone())),
        LogicalPlan::Filter(filter) => origin(&filter.input, column),
        LogicalPlan::SubqueryAlias(alias) => {
            let at = alias.schema.maybe_index_of_column(column)?;
            origin(&alias.input, &Column::from(alias.input.schema().qualified_field(at)))
        }
        LogicalPlan::Projection(projection) => {
            let at = projection.schema.maybe_index_of_column(column)?;
            match projection.expr.get(at)?.clone().unalias() {
                Expr::Column(column) => origin(&projection.input, &column),
                _ => None,
            }
        }
        _ => None,
    }
}
