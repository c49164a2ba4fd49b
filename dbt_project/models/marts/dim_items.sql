{{ config(
    unique_key=['item_id', 'version'],
    meta={'rewrites': [{'model': 'int_touched_items', 'by': ['item_id']}]}
) }}
with first_events as (
    select
        item_id,
        min(event_ts) as first_event_ts
    from {{ ref('fct_interactions') }}
    where item_id in (select item_id from {{ ref('int_touched_items') }})
    group by item_id
),

described as (
    select
        outcomes.* exclude (landed_table),
        case
            when outcomes.is_first
                -- What was used was there, whatever its own date says.
                then least(coalesce(outcomes.declared_from, outcomes.arrival_hour), first_events.first_event_ts)
            else outcomes.arrival_hour
        end as valid_from
    from {{ ref('int_item_outcomes') }} as outcomes
    left join first_events on outcomes.item_id = first_events.item_id
    where outcomes.outcome = 'kept'
)

select
    item_id,
    cast(version as integer) as version,
    valid_from,
    lead(valid_from) over (partition by item_id order by version) as valid_to,
    true as described,
    kind,
    title,
    description,
    categories,
    creator_id,
    price,
    published_at,
    available_from,
    available_until,
    attributes
from described
union all by name
-- An item that no row describes is one all the same.
select
    item_id,
    1 as version,
    first_event_ts as valid_from,
    cast(null as timestamp) as valid_to,
    false as described,
    cast([] as varchar[]) as categories
from first_events
where item_id not in (select item_id from described)
