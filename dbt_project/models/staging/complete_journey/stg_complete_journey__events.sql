{% set columns = [
    'household_id', 'product_id', 'basket_id', 'store_id', 'quantity', 'sales_value', 'transaction_timestamp'
] %}
with named as (
    {{ landed_fields('events', 'complete-journey', columns) }}
),

typed as (
    select
        * exclude (quantity, sales_value),
        {{ utc_time('transaction_timestamp') }} as event_ts,
        {{ number('quantity') }} as quantity,
        {{ number('sales_value') }} as sales_value
    from named
)

select
    arrival_hour,
    source,
    file,
    row_number,
    'h:' || md5(cast(json_array(
        'complete-journey', household_id, product_id, basket_id, store_id, quantity, sales_value, event_ts
    ) as varchar)) as event_key,
    household_id as user_id,
    product_id as item_id,
    'purchase' as event_type,
    event_ts,
    -- Fuel is counted in thousandths of a gallon: what costs less than a cent is measured, not counted, and was bought once.
    case when quantity >= 100 and sales_value / quantity < 0.01 then 1 else quantity end as value,
    cast(null as varchar) as text,
    basket_id as session_id,
    cast(json_object('sales_value', sales_value, 'store_id', store_id) as varchar) as attributes,
    false as deleted,
    false as is_bare_withdrawal,
    raw,
    case
        when read_error is not null then read_error
        when quantity is null then 'invalid_quantity'
    end as reason
from typed
