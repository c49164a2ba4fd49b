-- Each outcome counted where it ends up, against the batches' counts.
with counted as (
    select
        'interactions' as what,
        (select sum(interactions) from {{ ref('audit_batches') }}) as in_batches,
        (
            select count(*) from {{ ref('fct_interactions') }}
            where excluded_at is null
        ) as in_marts
    union all
    select
        'text_only' as what,
        (select sum(text_only) from {{ ref('audit_batches') }}) as in_batches,
        (
            select count(*) from {{ ref('fct_user_texts') }}
            where item_id is null and excluded_at is null
        ) as in_marts
    union all
    select
        'rejected' as what,
        (select sum(rejected) from {{ ref('audit_batches') }}) as in_batches,
        (select count(*) from {{ ref('fct_rejected_rows') }}) as in_marts
    union all
    select
        'items kept' as what,
        (
            select sum(kept) from {{ ref('audit_batches') }}
            where landed_table = 'items'
        ) as in_batches,
        (
            select count(*) from {{ ref('dim_items') }}
            where described
        ) as in_marts
    union all
    select
        'users kept' as what,
        (
            select sum(kept) from {{ ref('audit_batches') }}
            where landed_table = 'users'
        ) as in_batches,
        (
            select count(*) from {{ ref('dim_users') }}
            where described
        ) as in_marts
)

select *
from counted
where coalesce(in_batches, 0) <> in_marts
