{% set columns = [
    'invoice', 'stock_code', 'description', 'quantity', 'invoice_date', 'price', 'customer_id', 'country'
] %}
with named as (
    {{ landed_fields('events', 'online-retail', columns) }}
),

typed as (
    select
        * exclude (quantity, price, customer_id, stock_code, invoice),
        upper(stock_code) as item_id,
        upper(invoice) as invoice,
        customer_id as user_id, -- as it came (13085.0): ids are text
        {{ number('quantity') }} as quantity,
        {{ number('price') }} as price,
        starts_with(upper(invoice), 'C') as is_cancellation,
        -- Excel's spelling, as include/stores/formats/times.py reads it: change both. %Y would take two digits for a year.
        coalesce(
            {{ utc_time('invoice_date') }},
            case
                when
                    regexp_full_match(
                        invoice_date,
                        '[0-9]{1,2}/[0-9]{1,2}/([0-9]{2}|[1-9][0-9]{3}) +[0-9]{1,2}:[0-9]{1,2}(:[0-9]{1,2})?'
                    )
                    then try_strptime(
                        invoice_date, ['%m/%d/%y %H:%M', '%m/%d/%y %H:%M:%S', '%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S']
                    )
            end
        ) as event_ts
    from named
)

select
    typed.arrival_hour,
    typed.source,
    typed.file,
    typed.row_number,
    'h:' || md5(cast(json_array(
        'online-retail', typed.invoice, typed.item_id, typed.description, typed.quantity, typed.event_ts, typed.price,
        typed.user_id, typed.country
    ) as varchar)) as event_key,
    typed.user_id,
    typed.item_id,
    case when typed.is_cancellation then 'refund' else 'purchase' end as event_type,
    typed.event_ts,
    abs(typed.quantity) as value,
    cast(null as varchar) as text,
    typed.invoice as session_id,
    cast(json_object('country', typed.country, 'price', typed.price) as varchar) as attributes,
    false as deleted,
    false as is_bare_withdrawal,
    typed.raw,
    case
        when typed.read_error is not null then typed.read_error
        when typed.user_id is null then 'missing_user'
        when typed.item_id is null then 'missing_item'
        when exists (
            select 1
            from {{ ref('online_retail_non_products') }} as non_product
            where regexp_full_match(typed.item_id, non_product.pattern)
        ) then 'not_a_product'
        when
            typed.quantity is null
            or typed.quantity = 0
            or (typed.quantity < 0) <> coalesce(typed.is_cancellation, false)
            then 'invalid_quantity'
        when typed.price is null or typed.price <= 0 then 'invalid_price'
    end as reason
from typed
