//! Which change a row of a SELECT comes from: its offset, op, time and LSN are selected too, where the SELECT keeps changes apart.

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier,
    Statement as SqlStatement, TableFactor,
};

use super::changes::OP;
use crate::change::origin;

/// What the traced SELECT's last columns are called.
const PARTITION_ALIAS: &str = "__firn_partition";
const OFFSET_ALIAS: &str = "__firn_offset";
const OP_ALIAS: &str = "__firn_op";
const SOURCE_TS_ALIAS: &str = "__firn_source_ts";
const SOURCE_LSN_ALIAS: &str = "__firn_source_lsn";

/// # Errors
/// When the text is not one SELECT.
pub(super) fn parse(sql: &str) -> Result<Statement, String> {
    let mut statements = DFParser::parse_sql(sql).map_err(|e| e.strip_backtrace())?;
    let only = "is not one SELECT statement";
    match (statements.pop_front(), statements.is_empty()) {
        (Some(mut statement), true) => {
            name_fields(query_of(&mut statement).ok_or(only)?);
            Ok(statement)
        }
        _ => Err(only.to_owned()),
    }
}

fn query_of(statement: &mut Statement) -> Option<&mut Query> {
    match statement {
        Statement::Statement(inner) => match inner.as_mut() {
            SqlStatement::Query(query) => Some(query),
            _ => None,
        },
        _ => None,
    }
}

/// `after.id` is called `id`, as a column of a table would be.
fn name_fields(query: &mut Query) {
    for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
        name_fields(&mut cte.query);
    }
    name_fields_of(&mut query.body);
}

fn name_fields_of(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => select.projection.iter_mut().for_each(name_field),
        SetExpr::Query(query) => name_fields(query),
        SetExpr::SetOperation { left, right, .. } => {
            name_fields_of(left);
            name_fields_of(right);
        }
        _ => {}
    }
}

fn name_field(item: &mut SelectItem) {
    if let SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(_)) = item
        && let Expr::CompoundIdentifier(parts) = &*expr
        && let Some(alias) = parts.last().cloned()
    {
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

/// The statement with partition, offset, op, time and LSN of the change as its last columns; `None` where a row may come from several, or that can't be seen.
pub(super) fn traced(mut statement: Statement, sources: &[&str]) -> Option<Statement> {
    trace(&mut query_of(&mut statement)?.body, sources)?;
    Some(statement)
}

fn trace(body: &mut SetExpr, sources: &[&str]) -> Option<()> {
    match body {
        SetExpr::Select(select) => trace_select(select, sources),
        SetExpr::Query(query) => trace(&mut query.body, sources),
        SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::All, left, right } => {
            trace(left, sources)?;
            trace(right, sources)
        }
        _ => None,
    }
}

fn trace_select(select: &mut Select, sources: &[&str]) -> Option<()> {
    let groups = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(by, _) => !by.is_empty(),
    };
    if groups || select.distinct.is_some() || select.having.is_some() {
        return None;
    }
    let tables = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let mut found = tables.filter_map(|table| name_of(table, sources));
    let source = found.next().filter(|_| found.next().is_none())?;
    let columns = [
        (origin::PARTITION, PARTITION_ALIAS),
        (origin::OFFSET, OFFSET_ALIAS),
        (OP, OP_ALIAS),
        (origin::SOURCE_TS, SOURCE_TS_ALIAS),
        (origin::SOURCE_LSN, SOURCE_LSN_ALIAS),
    ];
    for (column, alias) in columns {
        let expr = Expr::CompoundIdentifier(vec![source.clone(), Ident::with_quote('"', column)]);
        select.projection.push(SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) });
    }
    Some(())
}

/// What a source is called in this SELECT.
fn name_of(table: &TableFactor, sources: &[&str]) -> Option<Ident> {
    let TableFactor::Table { name, alias, .. } = table else { return None };
    let last = name.0.last()?.as_ident()?;
    let folded = if last.quote_style.is_some() { last.value.clone() } else { last.value.to_lowercase() };
    if !sources.contains(&folded.as_str()) {
        return None;
    }
    Some(alias.as_ref().map_or_else(|| last.clone(), |alias| alias.name.clone()))
}
